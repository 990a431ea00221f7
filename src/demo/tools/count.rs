//! `count`: takes its time, says how far it is, and can be stopped.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::call::Call;
use super::super::era::Level;
use super::{Arguments, Called, told};

pub(super) fn describe() -> Value {
    json!({
        "name": "count",
        "title": "Count slowly",
        "description": "Counts up at a leisurely pace and reports progress. Cancel it whenever you like.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "to": { "type": "integer", "minimum": 1, "maximum": 1000, "default": 5 },
                "interval_ms": {
                    "type": "integer", "minimum": 0, "maximum": 60_000, "default": 1000,
                    "description": "Milliseconds before each number",
                },
            },
        },
        "outputSchema": {
            "type": "object",
            "properties": { "counted": { "type": "integer" } },
            "required": ["counted"],
        },
        "annotations": { "readOnlyHint": true, "openWorldHint": false },
    })
}

pub(super) fn call(arguments: &Arguments<'_>, call: Call) -> Result<Called, String> {
    let to = arguments.integer("to", Some(5), 1..=1000)?.unsigned_abs();
    let interval = Duration::from_millis(arguments.integer("interval_ms", Some(1000), 0..=60_000)?.unsigned_abs());
    Ok(Called::Running(Box::pin(async move {
        for number in 1..=to {
            tokio::time::sleep(interval).await;
            call.progress(number, to, &format!("{number} of {to}")).await;
            call.log(Level::DEBUG, "count", json!(number)).await;
        }
        Ok(told(&format!("Counted to {to}."), json!({ "counted": to })))
    })))
}
