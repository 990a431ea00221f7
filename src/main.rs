//! Parse, run, print one report, exit.

fn main() {}
