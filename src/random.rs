//! Random bytes, from the system.
//!
//! Not from the crypto library: before its first byte it gathers entropy of its own out of the processor's jitter, which
//! takes 70 ms, several times as long as everything else that ferry does until it serves.

/// Fresh random bytes.
///
/// # Panics
/// On a system without a source of randomness, which could run no TLS either.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        assert_ne!(bytes::<16>(), bytes::<16>());
    }
}
