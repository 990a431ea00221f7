//! Whose is it? What a shared legacy server says without naming a request, and the rules by which it finds its one
//! possible owner, or nobody (`protocol.md` §3.5, §3.6).
//!
//! Pure. "The only one in flight" is a guess: what a server says may stem from work that outlived its request. So the
//! guesses are made only while everything this server process was asked came from one identity (`gate_open`).

/// A request in flight, as far as these rules look at it. `Owner` names a session or one modern request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen<Owner> {
    pub(super) owner: Owner,
    /// It may cause the server to ask or log something.
    pub(super) candidate: bool,
}

/// Why a question of the server reaches nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undeliverable {
    /// There is no request that could have caused it.
    NothingInFlight,
    /// There are several that could have.
    Ambiguous,
}

impl Undeliverable {
    /// What the server is told.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::NothingInFlight => "no request in flight",
            Self::Ambiguous => "ambiguous: use isolation=session|user",
        }
    }
}

/// The owner of a question that names no task: that of all candidates, whether or not it can answer.
///
/// Looking only at those that declared the capability would show one client's question to another that has it.
pub(super) fn of_question<Owner: PartialEq + Clone>(
    in_flight: &[Seen<Owner>],
    gate_open: bool,
) -> Result<Owner, Undeliverable> {
    let mut candidates = in_flight.iter().filter(|seen| seen.candidate).map(|seen| &seen.owner);
    let first = candidates.next().ok_or(Undeliverable::NothingInFlight)?;
    if gate_open && candidates.all(|owner| owner == first) { Ok(first.clone()) } else { Err(Undeliverable::Ambiguous) }
}

/// The owner of a log message, if there can be but one.
pub(super) fn of_log<Owner: PartialEq + Clone>(
    in_flight: &[Seen<Owner>],
    only_session: Option<Owner>,
    gate_open: bool,
) -> Option<Owner> {
    if !gate_open {
        return None;
    }
    let mut candidates = in_flight.iter().filter(|seen| seen.candidate).map(|seen| &seen.owner);
    match candidates.next() {
        Some(first) => candidates.all(|owner| owner == first).then(|| first.clone()),
        None => only_session,
    }
}

/// The owner of a notification that ferry does not know, if there can be but one.
pub(super) fn of_unknown<Owner: PartialEq + Clone>(
    in_flight: &[Seen<Owner>],
    only_session: Option<Owner>,
    gate_open: bool,
) -> Option<Owner> {
    if !gate_open {
        return None;
    }
    let owner = only_session.or_else(|| in_flight.first().map(|first| first.owner.clone()))?;
    // One of an ended session counts: its server may still speak of it.
    in_flight.iter().all(|seen| seen.owner == owner).then_some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(owner: &'static str, candidate: bool) -> Seen<&'static str> {
        Seen { owner, candidate }
    }

    #[test]
    fn a_question_goes_to_the_one_that_can_have_caused_it_or_to_nobody() {
        use Undeliverable::{Ambiguous, NothingInFlight};
        let (a, b, list) = (seen("a", true), seen("b", true), seen("b", false));
        for (in_flight, open, owner) in [
            (&[][..], true, Err(NothingInFlight)),
            (&[list], true, Err(NothingInFlight)),
            (&[a], true, Ok("a")),
            (&[a, a], true, Ok("a")),
            (&[a, list], true, Ok("a")),
            (&[a, b], true, Err(Ambiguous)),
            (&[b, a], true, Err(Ambiguous)),
            (&[a], false, Err(Ambiguous)),
        ] {
            assert_eq!(of_question(in_flight, open), owner, "{in_flight:?} {open}");
        }
    }

    #[test]
    fn a_log_message_goes_to_the_only_candidate_or_to_the_only_session() {
        let (a, b, list) = (seen("a", true), seen("b", true), seen("b", false));
        for (in_flight, only, open, owner) in [
            (&[a][..], None, true, Some("a")),
            (&[a, b], None, true, None),
            (&[a, list], None, true, Some("a")),
            (&[], Some("a"), true, Some("a")),
            (&[list], Some("b"), true, Some("b")),
            (&[], None, true, None),
            (&[a], Some("a"), false, None),
            (&[], Some("a"), false, None),
        ] {
            assert_eq!(of_log(in_flight, only, open), owner, "{in_flight:?} {only:?} {open}");
        }
    }

    #[test]
    fn an_unknown_notification_needs_one_session_or_one_owner_of_everything() {
        let (a, list) = (seen("a", true), seen("b", false));
        for (in_flight, only, open, owner) in [
            (&[a, list][..], None, true, None),
            (&[a, a], None, true, Some("a")),
            (&[], Some("a"), true, Some("a")),
            (&[list], Some("a"), true, None),
            (&[], None, true, None),
            (&[a], Some("a"), false, None),
        ] {
            assert_eq!(of_unknown(in_flight, only, open), owner, "{in_flight:?} {only:?} {open}");
        }
    }
}
