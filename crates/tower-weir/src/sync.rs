//! The lock that an entry is behind, and what is written without it: in a model,
//! loom's, which has the threads take it in every order.

#[cfg(not(all(test, weir_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(all(test, weir_loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard};

#[cfg(not(all(test, weir_loom)))]
pub(crate) use std::sync::atomic::AtomicU64;

#[cfg(all(test, weir_loom))]
pub(crate) use loom::sync::atomic::AtomicU64;
