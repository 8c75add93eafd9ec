//! A letter as JSON, one object a line.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::super::{Absent, GrpcStatus, Letter, LetterAttempt, LetterBody, LetterResult};
use crate::outcome::Processed;

/// The version of the format. A reader refuses a later one.
const VERSION: u32 = 1;

/// The line. Times are RFC 3339 in UTC, durations milliseconds.
#[derive(Serialize, Deserialize)]
struct Line {
    v: u32,
    at: String,
    method: String,
    uri: String,
    headers: Vec<(String, Octets)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<String>,
    body: Body,
    attempts: Vec<Attempt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ending: Option<String>,
    processed: MayBe,
    result: Ended,
}

/// Text as it is; what is no UTF-8 in base64 (RFC 4648 4).
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Octets {
    Text(String),
    Binary { base64: String },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Body {
    Text(String),
    Base64(String),
    Absent(String),
}

#[derive(Serialize, Deserialize)]
struct Attempt {
    at: String,
    host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    took_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MayBe {
    No,
    Maybe,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ended {
    Response {
        status: u16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grpc_status: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grpc_message: Option<String>,
    },
    Error {
        fault: String,
        text: String,
    },
    Cancelled,
}

impl Serialize for Letter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Line::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Letter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Line::deserialize(deserializer)?
            .try_into()
            .map_err(|bad: Bad| D::Error::custom(bad))
    }
}

/// What in a line is not what it should be.
struct Bad(&'static str, String);

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0, self.1)
    }
}

impl From<&Letter> for Line {
    fn from(letter: &Letter) -> Self {
        let headers = letter.headers.iter();
        Self {
            v: VERSION,
            at: time(letter.at),
            method: letter.method.to_string(),
            uri: letter.uri.to_string(),
            headers: headers
                .map(|(name, value)| (name.to_string(), octets(value.as_bytes())))
                .collect(),
            left_out: letter.left_out.iter().map(ToString::to_string).collect(),
            body: match &letter.body {
                LetterBody::Absent(why) => Body::Absent(why.as_str().to_owned()),
                LetterBody::Whole(bytes) => match octets(bytes) {
                    Octets::Text(text) => Body::Text(text),
                    Octets::Binary { base64 } => Body::Base64(base64),
                },
            },
            attempts: letter.attempts.iter().map(Attempt::from).collect(),
            ending: letter.ending.clone(),
            processed: match letter.processed {
                Processed::No => MayBe::No,
                Processed::Maybe => MayBe::Maybe,
            },
            result: Ended::from(&letter.result),
        }
    }
}

impl TryFrom<Line> for Letter {
    type Error = Bad;

    fn try_from(line: Line) -> Result<Self, Bad> {
        if line.v > VERSION {
            return Err(Bad("v", format!("version {} is not known", line.v)));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in line.headers {
            let value = HeaderValue::from_bytes(&value.bytes()?).map_err(bad("headers"))?;
            let name = parse::<HeaderName>("headers", &name)?;
            headers.try_append(name, value).map_err(bad("headers"))?;
        }
        let left_out = line.left_out.iter().map(|name| parse("left_out", name));
        let attempts = line.attempts.into_iter().map(LetterAttempt::try_from);
        Ok(Self {
            at: system_time("at", &line.at)?,
            method: parse("method", &line.method)?,
            uri: parse("uri", &line.uri)?,
            headers,
            left_out: left_out.collect::<Result<_, _>>()?,
            body: line.body.try_into()?,
            attempts: attempts.collect::<Result<_, _>>()?,
            ending: line.ending,
            processed: match line.processed {
                MayBe::No => Processed::No,
                MayBe::Maybe => Processed::Maybe,
            },
            result: line.result.try_into()?,
        })
    }
}

fn octets(bytes: &[u8]) -> Octets {
    match std::str::from_utf8(bytes) {
        Ok(text) => Octets::Text(text.to_owned()),
        Err(_) => Octets::Binary {
            base64: STANDARD.encode(bytes),
        },
    }
}

impl Octets {
    fn bytes(self) -> Result<Vec<u8>, Bad> {
        match self {
            Self::Text(text) => Ok(text.into_bytes()),
            Self::Binary { base64 } => STANDARD.decode(base64).map_err(bad("base64")),
        }
    }
}

impl TryFrom<Body> for LetterBody {
    type Error = Bad;

    fn try_from(body: Body) -> Result<Self, Bad> {
        Ok(match body {
            Body::Text(text) => Self::Whole(text.into()),
            Body::Base64(text) => {
                let bytes = STANDARD.decode(text).map_err(bad("body"))?;
                Self::Whole(Bytes::from(bytes))
            }
            Body::Absent(word) => {
                use Absent::{Failed, NoRoom, NotRecorded, TimedOut, TooLong};
                let all = [NotRecorded, TooLong, NoRoom, Failed, TimedOut];
                let known = all.into_iter().find(|why| why.as_str() == word);
                Self::Absent(known.ok_or(Bad("body", word))?)
            }
        })
    }
}

impl From<&LetterAttempt> for Attempt {
    fn from(attempt: &LetterAttempt) -> Self {
        Self {
            at: time(attempt.at),
            host: attempt.host.clone(),
            took_ms: attempt.took.map(millis),
            cause: attempt.cause.clone(),
            delay_ms: attempt.delay.map(millis),
        }
    }
}

impl TryFrom<Attempt> for LetterAttempt {
    type Error = Bad;

    fn try_from(attempt: Attempt) -> Result<Self, Bad> {
        Ok(Self {
            at: system_time("attempts.at", &attempt.at)?,
            host: attempt.host,
            took: attempt.took_ms.map(Duration::from_millis),
            cause: attempt.cause,
            delay: attempt.delay_ms.map(Duration::from_millis),
        })
    }
}

impl From<&LetterResult> for Ended {
    fn from(result: &LetterResult) -> Self {
        match result.clone() {
            LetterResult::Response { status, grpc } => {
                let (code, message) = grpc.map(|grpc| (grpc.code, grpc.message)).unzip();
                Self::Response {
                    status: status.as_u16(),
                    grpc_status: code,
                    grpc_message: message.flatten(),
                }
            }
            LetterResult::Error { fault, text } => Self::Error { fault, text },
            LetterResult::Cancelled => Self::Cancelled,
        }
    }
}

impl TryFrom<Ended> for LetterResult {
    type Error = Bad;

    fn try_from(ended: Ended) -> Result<Self, Bad> {
        Ok(match ended {
            Ended::Response {
                status,
                grpc_status,
                grpc_message: message,
            } => Self::Response {
                status: StatusCode::from_u16(status).map_err(bad("status"))?,
                grpc: grpc_status.map(|code| GrpcStatus { code, message }),
            },
            Ended::Error { fault, text } => Self::Error { fault, text },
            Ended::Cancelled => Self::Cancelled,
        })
    }
}

fn bad<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> Bad {
    move |error| Bad(what, error.to_string())
}

fn parse<T: FromStr<Err: fmt::Display>>(what: &'static str, text: &str) -> Result<T, Bad> {
    text.parse().map_err(bad(what))
}

fn time(time: SystemTime) -> String {
    // It panics before 1970 and after 9999.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default().min(LAST);
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
}

fn system_time(what: &'static str, text: &str) -> Result<SystemTime, Bad> {
    humantime::parse_rfc3339(text).map_err(bad(what))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
