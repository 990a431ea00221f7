//! What is printed.

use crate::Plan;
use crate::statistics::Figure;

/// What a figure should be.
pub(crate) enum Aim {
    None,
    AtMost(f64),
    AtLeast(f64),
}

/// Where all of it was measured.
pub(crate) fn preface(plan: &Plan) {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    let load = load.as_deref().and_then(|load| load.split(' ').next()).unwrap_or("unknown");
    println!(
        "ferry {} on {} {}, {processors} processors, load {load} before it began; {} rounds, medians, lowest and highest",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        plan.rounds
    );
}

pub(crate) fn heading(text: &str) {
    println!("\n{text:<44} {:>10} {:>10} {:>10}", "median", "lowest", "highest");
}

pub(crate) fn row(name: &str, unit: &str, figure: &Figure) {
    aimed(name, unit, figure, &Aim::None);
}

pub(crate) fn aimed(name: &str, unit: &str, figure: &Figure, aim: &Aim) {
    let shown = |value: f64| if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let median = figure.median();
    let verdict = match aim {
        Aim::None => String::new(),
        Aim::AtMost(most) => format!("  aim: at most {most}, {}", met(median <= *most)),
        Aim::AtLeast(least) => format!("  aim: at least {least}, {}", met(median >= *least)),
    };
    let name = if unit.is_empty() { name.to_owned() } else { format!("{name}, {unit}") };
    println!(
        "  {name:<42} {:>10} {:>10} {:>10}{verdict}",
        shown(median),
        shown(figure.lowest()),
        shown(figure.highest())
    );
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}
