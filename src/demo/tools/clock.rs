//! `time`: what the machine's clock says.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Arguments, told};

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

pub(super) fn describe() -> Value {
    json!({
        "name": "time",
        "title": "What time is it?",
        "description": "The date and time on the machine where this server runs.",
        "inputSchema": {
            "type": "object",
            "properties": { "utc_offset_minutes": {
                "type": "integer",
                "minimum": -1440,
                "maximum": 1440,
                "default": 0,
                "description": "Minutes east of UTC: 120 in Berlin in summer, -300 in New York in winter",
            } },
        },
        "outputSchema": {
            "type": "object",
            "properties": {
                "iso": { "type": "string", "description": "RFC 3339" },
                "weekday": { "type": "string" },
                "unix": { "type": "integer", "description": "Seconds since 1970-01-01T00:00:00Z" },
            },
            "required": ["iso", "weekday", "unix"],
        },
        "annotations": { "readOnlyHint": true, "openWorldHint": false },
    })
}

pub(super) fn call(arguments: &Arguments<'_>) -> Result<Value, String> {
    let offset = arguments.integer("utc_offset_minutes", Some(0), -1440..=1440)?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| "the clock stands before 1970".to_owned())?;
    let unix = i64::try_from(since.as_secs()).map_err(|_| "the clock is out of range".to_owned())?;
    let (iso, weekday) = written(unix, offset);
    let text = format!("It is {weekday}, {iso}.");
    Ok(told(&text, json!({ "iso": iso, "weekday": weekday, "unix": unix })))
}

/// RFC 3339, and the day of the week.
fn written(unix: i64, offset_minutes: i64) -> (String, &'static str) {
    let local = unix.saturating_add(offset_minutes * 60);
    let (days, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let zone = if offset_minutes == 0 {
        "Z".to_owned()
    } else {
        let sign = if offset_minutes < 0 { '-' } else { '+' };
        let minutes = offset_minutes.abs();
        format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    };
    let weekday = usize::try_from(days.rem_euclid(7)).map_or("", |day| DAYS[day]);
    (format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{zone}"), weekday)
}

/// Days since 1970-01-01 to a date of the Gregorian calendar, after Howard Hinnant's `civil_from_days`: years are
/// counted from March, so that the leap day is the last of its year, in eras of 400 years or 146 097 days.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // 0000-03-01 to 1970-01-01
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // 0 is March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_people_write_them() {
        for (unix, offset, iso, weekday) in [
            (0, 0, "1970-01-01T00:00:00Z", "Thursday"),
            (951_782_400, 0, "2000-02-29T00:00:00Z", "Tuesday"),
            (1_785_196_800, 0, "2026-07-28T00:00:00Z", "Tuesday"),
            (1_785_196_800, 120, "2026-07-28T02:00:00+02:00", "Tuesday"),
            (1_785_196_800, -210, "2026-07-27T20:30:00-03:30", "Monday"),
            (4_107_542_399, 0, "2100-02-28T23:59:59Z", "Sunday"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z", "Monday"),
        ] {
            assert_eq!(written(unix, offset), (iso.to_owned(), weekday), "{unix} at {offset}");
        }
    }
}
