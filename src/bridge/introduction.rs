//! What a client says of itself when a server is opened for it alone.

use super::child::own_info;
use super::era;
use super::methods::meta;
use super::session_id::Abilities;
use super::sessions::Session;
use crate::mcp::envelope::Message;
use crate::mcp::members::{Members, quote, rewrite};
use crate::mcp::version::Era;

/// What the client for whom a server is opened said of itself (`protocol.md` §2.4).
#[derive(Debug, Clone)]
pub(super) struct Introduction {
    /// The era of the request that opens it.
    pub(super) era: Era,
    /// The parameters of the client's own `initialize`, to be repeated word for word.
    pub(super) initialize: Option<String>,
    /// Its `clientInfo`, as JSON.
    pub(super) client_info: String,
    /// Its `capabilities`, as JSON.
    pub(super) capabilities: String,
}

impl Introduction {
    /// That of an `initialize`, word for word.
    pub(super) fn verbatim(initialize: &Message) -> Self {
        let own = Self::of_person(initialize);
        Self { initialize: initialize.params_text().map(str::to_owned), ..own }
    }

    /// That of an `initialize` whose server other clients of the same person will share.
    pub(super) fn of_person(initialize: &Message) -> Self {
        let params = initialize.param_members().unwrap_or_default();
        Self::new(Era::Legacy, params.text("clientInfo"), params.object("capabilities"))
    }

    /// That of a modern request.
    pub(super) fn of_request(params: &era::Params<'_>) -> Self {
        let meta = params.meta.as_ref();
        let info = meta.and_then(|meta| meta.text(meta::CLIENT_INFO));
        Self::new(Era::Modern, info, meta.and_then(|meta| meta.object(meta::CLIENT_CAPABILITIES)))
    }

    /// What the id of a session tells, where nothing more is known: extensions and experiments are lost.
    pub(super) fn revived(session: &Session) -> Self {
        if session.is_passing() {
            return Self { era: Era::Legacy, initialize: None, client_info: own_info(), capabilities: "{}".to_owned() };
        }
        let (name, version) = session.client.rsplit_once(' ').unwrap_or((&session.client, ""));
        let client_info = format!("{{\"name\":{},\"version\":{}}}", quote(name), quote(version));
        let capabilities = capabilities(session.abilities);
        let initialize = format!(
            "{{\"protocolVersion\":{},\"capabilities\":{capabilities},\"clientInfo\":{client_info}}}",
            quote(session.version)
        );
        Self { era: Era::Legacy, initialize: Some(initialize), client_info, capabilities }
    }

    /// Client-hosted tasks and news of roots need a server that can tell its clients apart.
    fn new(era: Era, info: Option<&str>, capabilities: Option<Members<'_>>) -> Self {
        let info = info.filter(|info| info.starts_with('{'));
        let capabilities = capabilities.map_or_else(
            || "{}".to_owned(),
            |capabilities| {
                let roots = capabilities.object("roots").map(|roots| rewrite(&roots, &[("listChanged", None)]));
                let mut changes = vec![("tasks", None)];
                if let Some(roots) = &roots {
                    changes.push(("roots", Some(roots.as_str())));
                }
                rewrite(&capabilities, &changes)
            },
        );
        Self { era, initialize: None, client_info: info.map_or_else(own_info, str::to_owned), capabilities }
    }
}

/// The capabilities that an id remembers.
fn capabilities(abilities: Abilities) -> String {
    let mut members = Vec::new();
    if abilities.roots {
        members.push("\"roots\":{}".to_owned());
    }
    if abilities.sampling {
        members.push(format!("\"sampling\":{}", if abilities.sampling_tools { "{\"tools\":{}}" } else { "{}" }));
    }
    let modes = [("form", abilities.elicitation_form), ("url", abilities.elicitation_url)];
    let modes: Vec<String> = modes.iter().filter(|(_, has)| *has).map(|(mode, _)| format!("\"{mode}\":{{}}")).collect();
    if !modes.is_empty() {
        members.push(format!("\"elicitation\":{{{}}}", modes.join(",")));
    }
    format!("{{{}}}", members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initialize(params: &str) -> Message {
        let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{params}}}");
        Message::from_client(text.into_bytes()).unwrap()
    }

    #[test]
    fn a_person_shares_what_all_of_its_clients_can_keep() {
        for (declared, kept) in [
            ("{}", "{}"),
            (r#"{"tasks":{"list":{}},"sampling":{"tools":{}},"x":1}"#, r#"{"sampling":{"tools":{}},"x":1}"#),
            (r#"{"roots":{"listChanged":true}}"#, r#"{"roots":{}}"#),
        ] {
            let message = initialize(&format!("{{\"capabilities\":{declared},\"clientInfo\":{{\"name\":\"c\"}}}}"));
            let own = Introduction::of_person(&message);
            assert_eq!((own.capabilities.as_str(), own.client_info.as_str()), (kept, r#"{"name":"c"}"#));
            assert_eq!(own.initialize, None);
        }
    }

    #[test]
    fn a_session_is_repeated_word_for_word() {
        let params =
            r#"{"protocolVersion":"2025-06-18" ,"capabilities":{"tasks":{}},"clientInfo":{"name":"c"},"new":1}"#;
        assert_eq!(Introduction::verbatim(&initialize(params)).initialize.unwrap(), params);
    }

    #[test]
    fn abilities_become_capabilities_again() {
        let all = Abilities {
            roots: true,
            sampling: true,
            sampling_tools: true,
            elicitation_form: true,
            elicitation_url: true,
        };
        for (abilities, text) in [
            (Abilities::default(), "{}"),
            (all, r#"{"roots":{},"sampling":{"tools":{}},"elicitation":{"form":{},"url":{}}}"#),
            (Abilities { elicitation_form: true, ..Abilities::default() }, r#"{"elicitation":{"form":{}}}"#),
        ] {
            assert_eq!(capabilities(abilities), text);
        }
    }
}
