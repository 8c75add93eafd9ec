//! What all refusals have in common.

use std::{error::Error, fmt, time::Duration};

/// A `tonic::Status` made when somebody first asks for it: a refusal is on the
/// hot path of an outage, and most callers never look at its source.
#[derive(Clone, Default)]
pub(super) struct Status {
    #[cfg(feature = "tonic")]
    made: std::sync::OnceLock<tonic::Status>,
}

impl Status {
    #[cfg(feature = "tonic")]
    pub(super) fn source(
        &self,
        code: Code,
        error: &dyn fmt::Display,
    ) -> Option<&(dyn Error + 'static)> {
        let code = match code {
            Code::Unavailable => tonic::Code::Unavailable,
            Code::ResourceExhausted => tonic::Code::ResourceExhausted,
            Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        };
        Some(
            self.made
                .get_or_init(|| tonic::Status::new(code, error.to_string())),
        )
    }

    #[cfg(not(feature = "tonic"))]
    #[allow(clippy::unused_self, reason = "the other half of a feature")]
    pub(super) fn source(&self, _: Code, _: &dyn fmt::Display) -> Option<&(dyn Error + 'static)> {
        None
    }
}

#[derive(Clone, Copy)]
pub(super) enum Code {
    Unavailable,
    ResourceExhausted,
    DeadlineExceeded,
}

/// Writes a refusal that a tonic client sees as `$code`: the type with a
/// constructor of its fields, its `Debug` and its `Error`.
macro_rules! refusal {
    (
        $(#[$meta:meta])*
        $name:ident is $code:ident { $($field:ident: $type:ty,)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone)]
        pub struct $name {
            $($field: $type,)*
            status: $crate::error::refusal::Status,
        }

        impl $name {
            pub(crate) fn new($($field: $type),*) -> Self {
                Self {
                    $($field,)*
                    status: Default::default(),
                }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($field), &self.$field))*
                    .finish()
            }
        }

        impl std::error::Error for $name {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.status.source($crate::error::refusal::Code::$code, self)
            }
        }
    };
}

pub(super) use refusal;

/// ` for HOST`, or nothing where no host is known.
pub(super) struct Of<'a>(pub(super) &'a str);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " for {}", self.0)
    }
}

pub(super) struct Seconds(pub(super) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.0.as_secs_f64())
    }
}
