//! Retries.

pub mod backoff;
pub mod budget;
mod future;
mod layer;
mod map;
mod policy;
mod replay;
mod service;
mod setters;
mod source;
pub mod wait;

#[cfg(feature = "tonic")]
pub use self::map::ToTonic;
pub(crate) use self::setters::policy_setters;
pub use self::{
    future::ResponseFuture,
    layer::{CloneRequest, RetryLayer},
    map::{MapBody, MapReplay, MapsBodies, Same},
    policy::RetryPolicy,
    replay::{Account, BodyTakenOver, NotReplayable, ReplayBody, ReplayHandle, RequestBodyError},
    service::Retry,
    source::{CloneSource, HttpSource, Retried, Source},
};
