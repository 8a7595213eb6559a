//! Which fields a manifest may have: unknown ones are named together with the field that was probably meant.

use serde_json::Value;

/// Most unknown fields that are named; a manifest with more of them is of another kind.
pub const MAX_UNKNOWN: usize = 10;
/// Longest name, in characters, that is compared with others or shown whole. No field of ours is half as long.
const MAX_NAME: usize = 64;

/// A field that the schema does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// Where it stands, from `spec` on: `spec.backupConfig.taget`, `spec.gvkSelector[2].kinds`. Names that are too long
    /// are cut.
    pub path: String,
    /// The field that was probably meant: a name where it belongs at the same place, else its whole path.
    pub nearest: Option<String>,
}

impl std::fmt::Display for UnknownField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: unknown field", self.path)?;
        match &self.nearest {
            Some(nearest) => write!(f, ", did you mean {nearest:?}?"),
            None => Ok(()),
        }
    }
}

/// The fields below `spec` that `schema` (the OpenAPI schema of `spec`) does not know, in the order of the manifest, at
/// most [`MAX_UNKNOWN`] of them.
///
/// A node without `properties` that preserves unknown fields holds foreign JSON and is not looked into. A value of the
/// wrong type is not this check's business: the API server and the decoder refuse it.
///
/// Everybody can send a manifest, so the time this takes grows with its size and no faster.
pub fn check_fields(schema: &Value, spec: &Value) -> Vec<UnknownField> {
    let mut found = Vec::new();
    walk(schema, schema, spec, &Place::Root, &mut found);
    found
}

/// Where the walk is; becomes text only where something is found.
enum Place<'a> {
    Root,
    Field(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => f.write_str("spec"),
            Self::Item(parent, i) => write!(f, "{parent}[{i}]"),
            Self::Field(parent, name) => match name.char_indices().nth(MAX_NAME) {
                Some((end, _)) => write!(f, "{parent}.{}…", &name[..end]),
                None => write!(f, "{parent}.{name}"),
            },
        }
    }
}

fn walk(root: &Value, schema: &Value, value: &Value, place: &Place<'_>, found: &mut Vec<UnknownField>) {
    match value {
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (i, item) in items.iter().enumerate() {
                walk(root, schema, item, &Place::Item(place, i), found);
            }
        }
        Value::Object(fields) => {
            if let Some(known) = schema.get("properties").and_then(Value::as_object) {
                for (name, child) in fields {
                    let place = Place::Field(place, name);
                    match known.get(name) {
                        Some(schema) => walk(root, schema, child, &place, found),
                        None => report(found, &place, || {
                            nearest(name, known.keys()).or_else(|| elsewhere(root, name, "spec"))
                        }),
                    }
                }
            } else if let Some(schema) = schema.get("additionalProperties").filter(|s| s.is_object()) {
                for (name, child) in fields {
                    walk(root, schema, child, &Place::Field(place, name), found);
                }
            } else if schema.get("x-kubernetes-preserve-unknown-fields") != Some(&Value::Bool(true)) {
                // An object without fields: whatever stands in it is too much.
                for name in fields.keys() {
                    report(found, &Place::Field(place, name), || None);
                }
            }
        }
        _ => {}
    }
}

fn report(found: &mut Vec<UnknownField>, place: &Place<'_>, nearest: impl FnOnce() -> Option<String>) {
    if found.len() < MAX_UNKNOWN {
        found.push(UnknownField {
            path: place.to_string(),
            nearest: nearest(),
        });
    }
}

/// The known name that looks most like `name`; none when all are too different to be meant.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    // In bytes first: counting the characters of a long name takes its time, too.
    if name.len() > 4 * MAX_NAME || name.chars().count() > MAX_NAME {
        return None;
    }
    let lower = name.to_lowercase();
    let length = lower.chars().count();
    let tolerance = (length / 3).clamp(1, 4);
    known
        .filter(|k| k.chars().count().abs_diff(length) <= tolerance)
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), k))
        .filter(|(distance, _)| *distance <= tolerance)
        .min()
        .map(|(_, k)| k.clone())
}

/// Path of a field of exactly this name (but for case) anywhere in the schema, shallowest first.
fn elsewhere(schema: &Value, name: &str, path: &str) -> Option<String> {
    let known = schema.get("properties").and_then(Value::as_object)?;
    if let Some(k) = known.keys().find(|k| k.eq_ignore_ascii_case(name)) {
        return Some(format!("{path}.{k}"));
    }
    known.iter().find_map(|(k, child)| match child.get("items") {
        Some(items) => elsewhere(items, name, &format!("{path}.{k}[]")),
        None => elsewhere(child, name, &format!("{path}.{k}")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {
                "backupConfig": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"target": {"type": "object", "properties": {"name": {"type": "string"}}}}
                },
                "sets": {"type": "array", "items": {"type": "object", "properties": {"objects": {"type": "array"}}}},
                "extra": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
                "named": {"type": "object", "additionalProperties": {"type": "object", "properties": {"kind": {}}}},
                "foreign": {"x-kubernetes-preserve-unknown-fields": true},
                "empty": {"type": "object"}
            }
        })
    }

    fn messages(spec: &Value) -> Vec<String> {
        check_fields(&schema(), spec)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_typo_names_the_field_that_was_meant() {
        assert_eq!(
            messages(&json!({"backupConfg": {}})),
            ["spec.backupConfg: unknown field, did you mean \"backupConfig\"?"]
        );
        assert_eq!(
            messages(&json!({"BackupConfig": {}})).len(),
            1,
            "names are compared exactly"
        );
    }

    #[test]
    fn a_field_in_the_wrong_place_names_the_right_place() {
        assert_eq!(
            messages(&json!({"target": {"name": "t"}})),
            ["spec.target: unknown field, did you mean \"spec.backupConfig.target\"?"]
        );
        assert_eq!(
            messages(&json!({"backupConfig": {"objects": []}})),
            ["spec.backupConfig.objects: unknown field, did you mean \"spec.sets[].objects\"?"]
        );
    }

    #[test]
    fn something_entirely_different_has_no_nearest_name() {
        assert_eq!(messages(&json!({"zzzz": 1})), ["spec.zzzz: unknown field"]);
        assert_eq!(
            messages(&json!({"empty": {"a": 1}})),
            ["spec.empty.a: unknown field"]
        );
    }

    #[test]
    fn arrays_and_maps_are_walked_and_foreign_json_is_not() {
        assert_eq!(
            messages(&json!({"sets": [{"objects": []}, {"object": []}]})),
            ["spec.sets[1].object: unknown field, did you mean \"objects\"?"]
        );
        assert_eq!(
            messages(&json!({"named": {"any.name": {"kinds": 1}}})),
            ["spec.named.any.name.kinds: unknown field, did you mean \"kind\"?"]
        );
        assert!(messages(&json!({"extra": {"a/b": ["x"]}, "foreign": {"what": {"ever": 1}}})).is_empty());
    }

    #[test]
    fn a_hostile_manifest_costs_no_more_than_its_size() {
        let long = "n".repeat(1 << 20);
        let begun = std::time::Instant::now();
        // A long name beside others, one on the way to many items, and more unknown fields than anybody reads.
        let many: serde_json::Map<_, _> = (0..200_000)
            .map(|n| (format!("backupConfi{n}"), Value::Null))
            .collect();
        for hostile in [
            json!({long.clone(): {}, "named": {long.clone(): {"kinds": 1}}}),
            json!({"extra": {long.clone(): vec![0; 200_000]}}),
            Value::Object(many),
        ] {
            let found = check_fields(&schema(), &hostile);
            assert!(found.len() <= MAX_UNKNOWN, "{}", found.len());
            let text: usize = found.iter().map(|f| f.to_string().len()).sum();
            assert!(text < 2000, "{text} bytes of message");
        }
        assert!(begun.elapsed().as_secs() < 5, "it took {:?}", begun.elapsed());
        let cut = messages(&json!({"ä".repeat(65): 1}));
        assert_eq!(cut, [format!("spec.{}…: unknown field", "ä".repeat(64))]);
    }

    proptest! {
        #[test]
        fn every_unknown_top_level_field_is_reported_once(name in "[a-zA-Z]{1,20}") {
            let known = schema()["properties"].as_object().unwrap().contains_key(&name);
            let mut spec = serde_json::Map::new();
            spec.insert(name.clone(), Value::Null);
            let found = check_fields(&schema(), &Value::Object(spec));
            prop_assert_eq!(found.len(), usize::from(!known));
        }
    }
}
