//! A concurrency limit that finds the upstream's capacity.

mod config;
mod gate;
pub mod law;
mod layer;

pub use self::config::{Decrease, LawConfig};
pub(crate) use self::gate::LimiterConfig;
pub use self::{
    gate::{Limiter, LimiterSnapshot},
    layer::{AimdConcurrency, AimdConcurrencyLayer},
};
