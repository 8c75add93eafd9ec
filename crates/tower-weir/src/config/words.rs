//! Settings that can be left out: TOML has no null, and a file that shows every
//! setting needs a word for it.

/// A module for `#[serde(with = ..)]` of an `Option`, whose `None` is a word.
macro_rules! word {
    ($name:ident, $word:literal) => {
        pub(super) mod $name {
            use std::{fmt, marker::PhantomData};

            use serde::{
                Deserialize, Deserializer, Serialize, Serializer,
                de::{self, IntoDeserializer, value},
            };

            pub(in crate::config) fn serialize<T: Serialize, S: Serializer>(
                value: &Option<T>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                match value {
                    Some(value) => value.serialize(serializer),
                    None => serializer.serialize_str($word),
                }
            }

            pub(in crate::config) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<T>, D::Error> {
                deserializer.deserialize_any(Either(PhantomData))
            }

            struct Either<T>(PhantomData<T>);

            impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Either<T> {
                type Value = Option<T>;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str(concat!("a value, or \"", $word, "\""))
                }

                fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<T>, E> {
                    match text {
                        $word => Ok(None),
                        _ => T::deserialize(text.to_owned().into_deserializer()).map(Some),
                    }
                }

                fn visit_bool<E: de::Error>(self, value: bool) -> Result<Option<T>, E> {
                    T::deserialize(value.into_deserializer()).map(Some)
                }

                fn visit_i64<E: de::Error>(self, value: i64) -> Result<Option<T>, E> {
                    T::deserialize(value.into_deserializer()).map(Some)
                }

                fn visit_f64<E: de::Error>(self, value: f64) -> Result<Option<T>, E> {
                    T::deserialize(value.into_deserializer()).map(Some)
                }

                fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Option<T>, A::Error> {
                    T::deserialize(value::SeqAccessDeserializer::new(seq)).map(Some)
                }
            }

            /// The same for durations.
            pub(in crate::config) mod time {
                use std::time::Duration;

                use humantime_serde::Serde;
                use serde::{Deserializer, Serializer};

                pub(in crate::config) fn serialize<S: Serializer>(
                    value: &Option<Duration>,
                    serializer: S,
                ) -> Result<S::Ok, S::Error> {
                    super::serialize(&value.map(Serde::from), serializer)
                }

                pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
                    deserializer: D,
                ) -> Result<Option<Duration>, D::Error> {
                    let value: Option<Serde<Duration>> = super::deserialize(deserializer)?;
                    Ok(value.map(Serde::into_inner))
                }
            }
        }
    };
}

word!(none, "none");
word!(auto, "auto");
