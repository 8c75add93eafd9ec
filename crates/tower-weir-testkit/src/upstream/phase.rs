use std::{error::Error, fmt, time::Duration};

use clap::ValueEnum;
use http::StatusCode;
use serde::{Deserialize, Deserializer, de};
use tonic::Code;

/// How an upstream behaves for a while. What is not set is as the builder has
/// it, whatever the phase before said.
///
/// As TOML, one `[[phase]]` of a [`Story`](super::Story); durations are written
/// like `"1.5s"`:
///
/// ```toml
/// [[phase]]
/// lasts = "2s"
/// slots = 4
/// refusal = { queue = 10, retry_after = "1s" }
/// delay = "5ms"
/// troubles = [
///     { kind = { answer = { http = 503 } }, rate = 0.2 },
///     { kind = "hang", rate = 0.1 },
/// ]
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Phase {
    /// How long the phase lasts; without this and `requests`, to the end.
    #[serde(with = "humantime_serde")]
    pub lasts: Option<Duration>,
    /// How many requests the phase lasts; with both, whichever ends first.
    pub requests: Option<u64>,
    /// How many requests are served at once.
    pub slots: Option<usize>,
    /// What becomes of a request that finds no free slot.
    pub refusal: Option<Refusal>,
    /// How long an answer is held back after its slot was freed. Default: not
    /// at all.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// Nothing listens, and connections are cut when the phase begins.
    pub outage: bool,
    /// What goes wrong for some requests.
    pub troubles: Vec<Trouble>,
}

impl Phase {
    /// A phase that refuses connections for this long.
    pub fn outage(lasts: Duration) -> Self {
        Self {
            lasts: Some(lasts),
            outage: true,
            ..Self::default()
        }
    }

    /// Whether the phase ends by itself.
    pub(super) fn ends(&self) -> bool {
        self.lasts.is_some() || self.requests.is_some()
    }

    pub(super) fn check(&self) -> Result<(), InvalidPhase> {
        if self.requests == Some(0) {
            return Err(InvalidPhase("a phase of no requests would never begin"));
        }
        if self.outage && self.requests.is_some() {
            return Err(InvalidPhase("no request arrives to end an outage"));
        }
        if self
            .troubles
            .iter()
            .any(|trouble| !(0.0..=1.0).contains(&trouble.rate))
        {
            return Err(InvalidPhase("a rate must be from 0 to 1"));
        }
        // a sum of tenths may come out above 1
        if self
            .troubles
            .iter()
            .map(|trouble| trouble.rate)
            .sum::<f64>()
            > 1.0 + 1e-9
        {
            return Err(InvalidPhase("the rates of the troubles exceed 1 together"));
        }
        Ok(())
    }
}

/// What becomes of a request that finds every slot taken. By default it is
/// refused at once and told nothing else: 429, or RESOURCE_EXHAUSTED in a
/// Trailers-Only response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Refusal {
    /// How many may wait for a slot, first come first served, before the next
    /// is refused.
    pub queue: usize,
    /// How long the refused are told to stay away: `Retry-After` in whole
    /// seconds, rounded up (RFC 9110 section 10.2.3), or
    /// `grpc-retry-pushback-ms` (gRFC A6).
    #[serde(with = "humantime_serde")]
    pub retry_after: Option<Duration>,
    /// Whether they are told instead when what is pending will be done, in
    /// [`AdmissionLayer`](tower_weir::server::AdmissionLayer)'s own words.
    pub measured: bool,
}

/// The refusals that programs offer by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RefuseMode {
    /// 429 at once
    #[default]
    Plain,
    /// 429 with Retry-After: 1
    RetryAfter,
    /// A queue of five requests a slot, then 429
    Queue,
    /// The same, with the time in which the queue will be done
    Measured,
}

impl RefuseMode {
    /// The refusal of an upstream with this many slots.
    pub fn refusal(self, slots: usize) -> Refusal {
        match self {
            Self::Plain => Refusal::default(),
            Self::RetryAfter => Refusal {
                retry_after: Some(Duration::from_secs(1)),
                ..Refusal::default()
            },
            Self::Queue => Refusal {
                queue: 5 * slots,
                ..Refusal::default()
            },
            Self::Measured => Refusal {
                measured: true,
                ..Self::Queue.refusal(slots)
            },
        }
    }
}

/// Something that goes wrong for a share of the requests.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// What goes wrong.
    pub kind: TroubleKind,
    /// For which share of the requests, from 0 to 1. Default in TOML: 1.
    #[serde(default = "always")]
    pub rate: f64,
}

fn always() -> f64 {
    1.0
}

impl Trouble {
    /// A trouble that every request has.
    pub const fn always(kind: TroubleKind) -> Self {
        Self { kind, rate: 1.0 }
    }
}

/// What can go wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// It is answered at once, without a slot and without being processed.
    Answer(Answer),
    /// It takes no slot and is never answered.
    Hang,
    /// It is processed, and the connection is closed instead of answering.
    CloseBeforeResponse,
    /// It is processed, and the connection is closed after the headers and half
    /// of the first piece of the answer.
    CloseMidResponse,
}

/// A status to answer with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Over HTTP.
    #[serde(deserialize_with = "status")]
    pub http: StatusCode,
    /// Over gRPC, in TOML by number. By default what the HTTP status is mostly
    /// said by in gRPC: 429 RESOURCE_EXHAUSTED, 503 UNAVAILABLE, 504
    /// DEADLINE_EXCEEDED, 500 INTERNAL, else UNKNOWN.
    #[serde(default, deserialize_with = "code")]
    pub grpc: Option<Code>,
    /// As [`Refusal::retry_after`].
    #[serde(default, with = "humantime_serde")]
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// An answer with this status, and the code that goes with it.
    pub const fn status(http: StatusCode) -> Self {
        Self {
            http,
            grpc: None,
            retry_after: None,
        }
    }

    pub(super) fn code(&self) -> Code {
        self.grpc.unwrap_or(match self.http.as_u16() {
            429 => Code::ResourceExhausted,
            500 => Code::Internal,
            503 => Code::Unavailable,
            504 => Code::DeadlineExceeded,
            _ => Code::Unknown,
        })
    }
}

fn status<'de, D: Deserializer<'de>>(from: D) -> Result<StatusCode, D::Error> {
    let number = u16::deserialize(from)?;
    // below 200 an answer is not final
    StatusCode::from_u16(number)
        .ok()
        .filter(|status| !status.is_informational())
        .ok_or_else(|| de::Error::custom(format!("{number} is no final HTTP status")))
}

fn code<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Code>, D::Error> {
    let number = i32::deserialize(from)?;
    match Code::from_i32(number) {
        Code::Unknown if number != Code::Unknown as i32 => {
            Err(de::Error::custom(format!("{number} is no gRPC code")))
        }
        code => Ok(Some(code)),
    }
}

/// Why a phase cannot be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPhase(pub(super) &'static str);

impl fmt::Display for InvalidPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for InvalidPhase {}
