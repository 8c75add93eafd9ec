//! What the layers cost, beside the rivals: the subjects, and how they are
//! measured. The program over it is `tower-weir-bench`; `docs/performance.md`
//! tells how to read what it prints.

mod measure;
pub mod modes;
mod report;
pub mod subjects;

#[global_allocator]
static ALLOCATOR: densa_alloc::CountingAllocator = densa_alloc::CountingAllocator::system();

pub use self::{
    measure::{Effort, single_thread},
    report::{Report, versions},
};
