//! Retries.

pub mod backoff;
pub mod wait;
mod map;
mod replay;

#[cfg(feature = "tonic")]
pub use self::map::ToTonic;
pub use self::{
    map::{MapBody, MapReplay, Same},
    replay::{Account, BodyTakenOver, NotReplayable, ReplayBody, ReplayHandle, RequestBodyError},
};
