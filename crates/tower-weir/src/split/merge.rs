use std::fmt;

use super::Answer;
use crate::BoxError;

/// Makes one answer of those to the parts of a request.
///
/// It is asked only when all parts went well; for what else there is see
/// [`PartialFailure`](super::PartialFailure). Make one from a closure with
/// [`merge_fn`].
pub trait Merge<Res> {
    /// Merges answers, two or more, which are in the order of their items and
    /// cover all of them.
    ///
    /// # Errors
    ///
    /// The answers as they came, if they do not make a whole.
    fn merge(&self, answers: Vec<Answer<Res>>) -> Result<Res, Unmerged<Res>>;
}

/// Answers that do not make a whole.
#[derive(Debug)]
pub struct Unmerged<Res> {
    /// The answers.
    pub answers: Vec<Answer<Res>>,
    /// Why.
    pub why: BoxError,
}

/// Makes a [`Merge`] from a closure, which gets the answers in the order of their
/// items.
///
/// ```
/// use tower_weir::split::merge_fn;
///
/// // Each answer is the number of records that were stored.
/// let sum = merge_fn(|stored: Vec<u64>| stored.iter().sum());
/// # let _ = sum;
/// ```
pub fn merge_fn<Res, F>(f: F) -> MergeFn<F>
where
    F: Fn(Vec<Res>) -> Res,
{
    MergeFn(f)
}

/// A [`Merge`] made by [`merge_fn`].
#[derive(Clone, Copy)]
pub struct MergeFn<F>(F);

impl<F> fmt::Debug for MergeFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MergeFn")
    }
}

impl<Res, F> Merge<Res> for MergeFn<F>
where
    F: Fn(Vec<Res>) -> Res,
{
    fn merge(&self, answers: Vec<Answer<Res>>) -> Result<Res, Unmerged<Res>> {
        let responses = answers.into_iter().map(|answer| answer.response);
        Ok((self.0)(responses.collect()))
    }
}
