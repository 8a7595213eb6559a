//! Numbers and times as text. Pure: the clock comes in as a number.

/// Bytes in binary units with three significant digits: `0 B`, `1.50 GiB`, `200 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 would print as 1024 in three digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text} {}", UNITS[unit])
}

/// A duration with its two largest units: `0.4 s`, `12 s`, `3 min 4 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn duration(milliseconds: i64) -> String {
    let milliseconds = milliseconds.max(0);
    if milliseconds < 10_000 {
        let tenths = milliseconds / 100;
        return if tenths % 10 == 0 {
            format!("{} s", tenths / 10)
        } else {
            format!("{}.{} s", tenths / 10, tenths % 10)
        };
    }
    let seconds = milliseconds / 1000;
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// How long ago something was, in one unit: `just now`, `12 s ago`, `5 min ago`, `3 h ago`, `2 d ago`. A time that
/// lies ahead (clocks differ) within a minute counts as now.
pub(crate) fn ago(then_ms: i64, now_ms: i64) -> String {
    let seconds = (now_ms - then_ms) / 1000;
    match seconds {
        i64::MIN..-60 => format!("in {}", duration(-seconds * 1000)),
        -60..5 => "just now".to_owned(),
        _ => format!("{} ago", one_unit(seconds)),
    }
}

fn one_unit(seconds: i64) -> String {
    match seconds {
        i64::MIN..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Milliseconds since the epoch of an RFC 3339 time, with any offset; nothing when it is none.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let bytes = text.as_bytes();
    let shape = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if !shape.iter().all(|&(at, byte)| bytes.get(at) == Some(&byte)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut milliseconds = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let digits: String = fraction[..length].chars().chain("000".chars()).take(3).collect();
        milliseconds = digits.parse().ok()?;
        rest = &fraction[length..];
    }
    let offset_minutes = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = if rest.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = rest.strip_prefix(['+', '-'])?.split_once(':')?;
            sign * (hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?)
        }
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some((seconds - offset_minutes * 60) * 1000 + milliseconds)
}

/// Days between 1970-01-01 and a date of the Gregorian calendar, counted in eras of 400 years that start in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// An RFC 3339 time as people read it, in UTC: `2026-11-22 17:40:05 UTC`. Other text stays as it is.
pub(crate) fn absolute(text: &str) -> String {
    match (text.get(..10), text.get(11..19)) {
        (Some(date), Some(time)) if text.ends_with('Z') && parse_time(text).is_some() => {
            format!("{date} {time} UTC")
        }
        _ => text.to_owned(),
    }
}

/// A count with its noun: `1 volume`, `3 volumes`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_significant_digits() {
        for (value, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (200 << 20, "200 MiB"),
            (1023 << 20, "1 GiB"),
            (1 << 30, "1 GiB"),
            (5_368_709_120, "5 GiB"),
            (123_456_789, "118 MiB"),
            (12_345_678, "11.8 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(value), text, "{value}");
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (value, text) in [
            (-5, "0 s"),
            (400, "0.4 s"),
            (2000, "2 s"),
            (12_300, "12 s"),
            (60_000, "1 min"),
            (184_000, "3 min 4 s"),
            (7_500_000, "2 h 5 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(duration(value), text, "{value}");
        }
    }

    #[test]
    fn ages_have_one_unit_and_tolerate_clock_skew() {
        let now = 1_000_000_000;
        for (seconds, text) in [
            (-30, "just now"),
            (-120, "in 2 min"),
            (0, "just now"),
            (12, "12 s ago"),
            (300, "5 min ago"),
            (7200, "2 h ago"),
            (172_800, "2 d ago"),
        ] {
            assert_eq!(ago(now - seconds * 1000, now), text, "{seconds}");
        }
    }

    #[test]
    fn times_are_parsed_with_fraction_and_offset() {
        assert_eq!(parse_time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse_time("2000-02-29T12:00:00Z"), Some(951_825_600_000));
        assert_eq!(
            parse_time("2026-11-22T17:40:05.1234567Z"),
            Some(1_795_369_205_123)
        );
        assert_eq!(
            parse_time("2026-11-22T19:40:05+02:00"),
            parse_time("2026-11-22T17:40:05Z")
        );
        for bad in [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-11-22 17:40",
            "2026-11-22T17:40:05",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn absolute_times_keep_what_they_cannot_read() {
        assert_eq!(absolute("2026-11-22T17:40:05.5Z"), "2026-11-22 17:40:05 UTC");
        assert_eq!(absolute("soon"), "soon");
    }

    #[test]
    fn counts_agree_with_their_noun() {
        assert_eq!(count(1, "point"), "1 point");
        assert_eq!(count(0, "point"), "0 points");
    }
}
