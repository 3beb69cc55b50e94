//! How many requests a worker runs, read from its answer to the busy question.

use serde_json::Value;

use crate::kinds::Busy;

/// Running requests by the kind's rule; `None` if the answer is not understood.
pub(super) fn running(busy: &Busy, body: &[u8]) -> Option<u32> {
    match busy {
        Busy::Count { field, .. } => count(body, field),
        Busy::Sum { metric, .. } => sum(std::str::from_utf8(body).ok()?, metric),
    }
}

/// Elements of a JSON array whose `field` is true.
fn count(body: &[u8], field: &str) -> Option<u32> {
    let Ok(Value::Array(elements)) = serde_json::from_slice(body) else { return None };
    u32::try_from(elements.iter().filter(|e| e.get(field) == Some(&Value::Bool(true))).count()).ok()
}

/// A Prometheus gauge, summed over its labels.
fn sum(text: &str, metric: &str) -> Option<u32> {
    let mut sum = None;
    for sample in text.lines().filter_map(|line| line.trim_start().strip_prefix(metric)) {
        let value = match sample.chars().next()? {
            '{' => after_labels(sample)?,
            ' ' | '\t' => sample,
            _ => continue, // a longer name
        };
        let value: f64 = value.split_ascii_whitespace().next()?.parse().ok()?;
        if !value.is_finite() || value < 0.0 {
            return None;
        }
        sum = Some(sum.unwrap_or(0.0) + value);
    }
    let sum: f64 = sum?.round();
    (sum <= f64::from(u32::MAX)).then_some(sum as u32)
}

/// What follows `{…}`; values are quoted and may hold braces.
fn after_labels(sample: &str) -> Option<&str> {
    let (mut quoted, mut escaped) = (false, false);
    for (i, c) in sample.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(&sample[i + 1..]),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_slots_are_counted_in_a_json_array() {
        let busy = Busy::Count { path: "/slots".into(), field: "busy".into() };
        assert_eq!(running(&busy, br#"[{"busy":true},{"busy":false},{"busy":true},{}]"#), Some(2));
        assert_eq!(running(&busy, b"[]"), Some(0));
        assert_eq!(running(&busy, br#"{"busy":true}"#), None);
        assert_eq!(running(&busy, b"[{"), None);
    }

    #[test]
    fn a_gauge_is_summed_over_its_labels_under_its_exact_name() {
        let busy = Busy::Sum { path: "/metrics".into(), metric: "vllm:running".into() };
        let text = "# HELP vllm:running x\n# TYPE vllm:running gauge\nvllm:running_max 9\n\
                    vllm:running{a=\"}\\\" 7\"} 1.0 1700000000000\nvllm:running{a=\"b\"} 2e0\nvllm:running 0.6\n";
        assert_eq!(running(&busy, text.as_bytes()), Some(4));
        for text in [
            "vllm:running NaN",
            "vllm:running -1",
            "vllm:running{a=\"b\" 1",
            "vllm:running x",
            "other 1",
            "vllm:running",
        ] {
            assert_eq!(running(&busy, text.as_bytes()), None, "{text}");
        }
    }
}
