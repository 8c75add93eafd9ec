//! The whole stack as one layer.

mod gate;
mod layer;

pub use self::{
    gate::Joined,
    layer::{HostSnapshot, Weir},
};
