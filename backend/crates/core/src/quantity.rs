//! Kubernetes quantities as bytes.

/// Bytes of a quantity such as `1Gi`, `500M`, `1e9` or `1536Mi`, rounded up; `None` when it is none or does not fit.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 18 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value = match factor(suffix)? {
        Factor::Times(factor) => digits.checked_mul(factor)?.div_ceil(scale),
        Factor::Thousandths => digits.div_ceil(scale.checked_mul(1000)?),
    };
    u64::try_from(value).ok()
}

/// The quantity of `own`, or of `least` bytes if that is more or `own` is no quantity.
pub fn at_least(own: &str, least: u64) -> String {
    match bytes(own) {
        Some(own_bytes) if own_bytes >= least => own.to_owned(),
        _ => least.to_string(),
    }
}

enum Factor {
    Times(u128),
    Thousandths,
}

fn factor(suffix: &str) -> Option<Factor> {
    let binary = |power: u32| Some(Factor::Times(1u128 << (10 * power)));
    let decimal = |power: u32| Some(Factor::Times(10u128.pow(3 * power)));
    match suffix {
        "" => Some(Factor::Times(1)),
        "m" => Some(Factor::Thousandths),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        exponent => {
            let power: u32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            Some(Factor::Times(10u128.checked_pow(power)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_raised_and_never_lowered() {
        for (own, least, expected) in [
            ("1Gi", 10 << 40, "10995116277760"),
            ("2Gi", 1 << 30, "2Gi"),
            ("1Gi", 1 << 30, "1Gi"),
            ("", 5, "5"),
            ("-1Gi", 5, "5"),
        ] {
            assert_eq!(at_least(own, least), expected, "{own}");
        }
    }

    #[test]
    fn quantities_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("0", 0),
            ("1Gi", 1 << 30),
            ("1536Mi", 1536 << 20),
            ("1.5Gi", 1536 << 20),
            ("500M", 500_000_000),
            ("1e9", 1_000_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1073741824", 1 << 30),
            ("1500m", 2),
            ("0.1Ki", 103),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for bad in ["", "Gi", "-1", "1Xi", "1e", "99999999999Ei", "."] {
            assert_eq!(bytes(bad), None, "{bad:?}");
        }
    }
}
