use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The ids in a JSON document: that of a record, those of an array of records,
/// or those of what an object has under `records`. An id is a string or a whole
/// number; anything else is skipped.
pub(super) fn of_json(document: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    serde_json::from_slice(document).map(|Ids(ids)| ids)
}

#[derive(Default)]
struct Ids(Vec<String>);

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Records)
    }
}

struct Records;

impl<'de> Visitor<'de> for Records {
    type Value = Ids;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("records")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ids, A::Error> {
        let mut ids = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "id" => match map.next_value()? {
                    serde_json::Value::String(id) => ids.push(id),
                    serde_json::Value::Number(id) => ids.push(id.to_string()),
                    _ => {}
                },
                "records" => ids.extend(map.next_value::<Ids>()?.0),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Ids(ids))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Ids, A::Error> {
        let mut ids = Vec::new();
        while let Some(Ids(more)) = seq.next_element()? {
            ids.extend(more);
        }
        Ok(Ids(ids))
    }

    fn visit_unit<E>(self) -> Result<Ids, E> {
        Ok(Ids::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Ids, E> {
        Ok(Ids::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Ids, E> {
        Ok(Ids::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Ids, E> {
        Ok(Ids::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Ids, E> {
        Ok(Ids::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Ids, E> {
        Ok(Ids::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_records() {
        for (document, expected) in [
            (
                r#"{"records":[{"id":"a","vector":[1.5,-2]},{"id":"b","metadata":{"id":"no"}}]}"#,
                vec!["a", "b"],
            ),
            (
                r#"[{"id":"a"},{"vector":[]},{"id":7},{"id":null}]"#,
                vec!["a", "7"],
            ),
            (r#"{"id":"a"}"#, vec!["a"]),
            (r#"{"namespace":"n","records":null}"#, vec![]),
            (r#""id""#, vec![]),
            ("[1, 2.5, true, [], null, -1]", vec![]),
        ] {
            assert_eq!(
                of_json(document.as_bytes()).unwrap(),
                expected,
                "{document}"
            );
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for document in ["", "{", "hello", r#"{"records":[{"id":"a"}"#] {
            of_json(document.as_bytes()).unwrap_err();
        }
    }
}
