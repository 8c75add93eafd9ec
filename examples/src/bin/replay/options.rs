use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use clap::Parser;
use http::{HeaderName, HeaderValue, Uri, uri};

/// Sends the requests of a file of dead letters again, each at most once for its
/// idempotency key
///
/// What was sent is written down before and after: killed at any moment, the
/// same command goes on where it was. A letter that was being sent at that moment
/// is in doubt, and is not sent again unless --doubtful says so.
#[derive(Debug, Parser)]
#[command(name = "replay", version)]
pub(crate) struct Options {
    /// The file of letters, with those that were put aside of it (FILE.1, FILE.2)
    #[arg(value_name = "FILE.jsonl")]
    pub(crate) letters: PathBuf,
    /// Where to, instead of where the requests went: http://host:port
    #[arg(long, value_name = "URL", value_parser = target)]
    pub(crate) to: Option<Target>,
    /// Where it is written down what was sent. Default: FILE.jsonl.sent
    #[arg(long, value_name = "FILE")]
    pub(crate) progress: Option<PathBuf>,
    /// Where letters go of what fails again. Default: FILE.jsonl.again
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) again: Option<PathBuf>,
    /// A header for every request, for those that letters leave out
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The limiter's ceiling
    #[arg(long, value_name = "N", default_value = "16")]
    pub(crate) max_concurrency: NonZeroUsize,
    /// For how many seconds nothing of an answer may come before it is given up, and
    /// its letter fails again
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) answer_timeout: Duration,
    /// Send letters without an idempotency key, too: each once, but the upstream
    /// cannot tell whether it has had the request before
    #[arg(long)]
    pub(crate) without_key: bool,
    /// Send letters without a body, too: with an empty one
    #[arg(long)]
    pub(crate) without_body: bool,
    /// Send again what was being sent when an earlier replay was killed
    #[arg(long)]
    pub(crate) doubtful: bool,
    /// Print one JSON object and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

/// The part of a URI that says where.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) scheme: uri::Scheme,
    pub(crate) authority: uri::Authority,
}

fn target(text: &str) -> Result<Target, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    let parts = uri.into_parts();
    match (parts.scheme, parts.authority) {
        (Some(scheme), Some(authority)) if scheme == uri::Scheme::HTTP => {
            Ok(Target { scheme, authority })
        }
        (Some(scheme), Some(_)) => Err(format!("this example speaks no {scheme}: use http")),
        _ => Err("no host: a URL looks like http://host:port".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: NonZeroU32 = text.parse().map_err(|error| format!("{error}"))?;
    Ok(Duration::from_secs(seconds.get().into()))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("no colon in it")?;
    let name = name.trim().parse().map_err(|error| format!("{error}"))?;
    let value: HeaderValue = value.trim().parse().map_err(|error| format!("{error}"))?;
    Ok((name, secret(value)))
}

/// A letter of what fails again is to leave it out again.
fn secret(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}
