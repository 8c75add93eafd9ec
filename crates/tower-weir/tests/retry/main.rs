//! The retry layer on paused time.

mod batch;
mod budget;
mod deadline;
mod load;
mod marks;
mod support;
