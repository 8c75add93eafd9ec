use std::{any::Any, error::Error, fmt, ops::Range, sync::Mutex};

use crate::{BoxError, outcome::Cause};

/// An answer to some of a request's items.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answer<Res> {
    /// The items, by their place in the original request.
    pub items: Range<usize>,
    /// The answer to them.
    pub response: Res,
}

impl<Res> Answer<Res> {
    pub(super) fn new(items: Range<usize>, response: Res) -> Self {
        Self { items, response }
    }
}

/// What became of items that were not delivered.
#[derive(Debug)]
pub enum Undelivered<Res> {
    /// The upstream answered, and not well.
    Answered(Res),
    /// An error came instead of an answer. The items may have been acted on.
    Error(BoxError),
    /// They were not sent: even a single item had been refused, or the service
    /// beneath had failed for good.
    NotSent,
}

/// All that is known of a request that was delivered in part.
#[derive(Debug)]
#[non_exhaustive]
pub struct Parts<Res> {
    /// The answers to what was delivered, in the order of the items.
    pub delivered: Vec<Answer<Res>>,
    /// What was not, in the order of the items.
    pub failed: Vec<(Range<usize>, Undelivered<Res>)>,
}

/// A request was split, and there is no one answer to it: some of its items were
/// not delivered, or the answers could not be merged.
///
/// It says which items, by their place in the original request, and holds
/// whatever was answered: [`into_parts`](Self::into_parts).
///
/// ```
/// use tower_weir::{BoxError, split::PartialFailure};
///
/// fn report(error: BoxError) {
///     let Ok(partial) = error.downcast::<PartialFailure>() else { return };
///     println!("{} items were delivered", partial.delivered());
///     for failure in partial.failures() {
///         println!("{:?}: {}", failure.items(), failure);
///     }
/// }
/// # report("".into());
/// ```
pub struct PartialFailure {
    delivered: usize,
    failures: Vec<Failure>,
    unmerged: Option<BoxError>,
    /// Errors are shared between threads, and answers need not be: a lock that
    /// is never taken makes the one of the other.
    answers: Mutex<Box<dyn Any + Send>>,
}

/// Items of one request that were not delivered, and why.
#[derive(Debug)]
pub struct Failure {
    items: Range<usize>,
    cause: Option<Cause>,
    error: Option<BoxError>,
}

impl Failure {
    /// The items, by their place in the original request. There is one item in
    /// it where splitting could go on to the end.
    pub fn items(&self) -> Range<usize> {
        self.items.clone()
    }

    /// What was said of them; `None` if they were not sent.
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// The error, where there was no answer.
    pub fn error(&self) -> Option<&BoxError> {
        self.error.as_ref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.error, self.cause) {
            (Some(error), _) => error.fmt(f),
            (None, Some(cause)) => cause.fmt(f),
            (None, None) => f.write_str("not sent"),
        }
    }
}

/// The answers that belong to a report's failures, which have none of their own
/// where there was an error or where nothing was sent.
struct Answers<Res> {
    delivered: Vec<Answer<Res>>,
    failed: Vec<Option<Res>>,
}

impl PartialFailure {
    /// How many items were delivered.
    pub fn delivered(&self) -> usize {
        self.delivered
    }

    /// What was not delivered, in the order of the items.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// The place of each item that was not delivered, in order.
    pub fn failed_items(&self) -> impl Iterator<Item = usize> + '_ {
        self.failures.iter().flat_map(Failure::items)
    }

    /// Why the answers were not merged, though all went well.
    pub fn unmerged(&self) -> Option<&BoxError> {
        self.unmerged.as_ref()
    }

    /// All answers, those that were good and those that were not. `Res` is the
    /// response type of the service beneath.
    ///
    /// # Errors
    ///
    /// The error itself, if `Res` is another type.
    pub fn into_parts<Res: 'static>(self) -> Result<Parts<Res>, Self> {
        let answers = self.answers.into_inner();
        let answers = answers.unwrap_or_else(std::sync::PoisonError::into_inner);
        let answers = match answers.downcast::<Answers<Res>>() {
            Ok(answers) => *answers,
            Err(answers) => {
                return Err(Self {
                    answers: Mutex::new(answers),
                    ..self
                });
            }
        };
        let failed = self.failures.into_iter().zip(answers.failed);
        let failed = failed.map(|(failure, answer)| {
            let why = match (answer, failure.error) {
                (Some(response), _) => Undelivered::Answered(response),
                (None, Some(error)) => Undelivered::Error(error),
                (None, None) => Undelivered::NotSent,
            };
            (failure.items, why)
        });
        Ok(Parts {
            delivered: answers.delivered,
            failed: failed.collect(),
        })
    }
}

impl fmt::Debug for PartialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartialFailure")
            .field("delivered", &self.delivered)
            .field("failures", &self.failures)
            .field("unmerged", &self.unmerged)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for PartialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.failed_items().count();
        match (&self.unmerged, self.failures.first()) {
            (Some(why), _) => write!(
                f,
                "the answers to {} items were not merged: {why}",
                self.delivered
            ),
            (None, Some(first)) => write!(
                f,
                "{failed} of {} items were not delivered, the first because of: {first}",
                failed + self.delivered
            ),
            (None, None) => f.write_str("nothing was sent"),
        }
    }
}

impl Error for PartialFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let errors = self.failures.iter().filter_map(Failure::error);
        let error = self.unmerged.iter().chain(errors).next()?;
        Some(error.as_ref())
    }
}

/// What is gathered of a request's pieces.
pub(super) struct Gathered<Res> {
    delivered: Vec<Answer<Res>>,
    failed: Vec<(Failure, Option<Res>)>,
}

impl<Res> Default for Gathered<Res> {
    fn default() -> Self {
        Self {
            delivered: Vec::new(),
            failed: Vec::new(),
        }
    }
}

impl<Res> Gathered<Res> {
    pub(super) fn deliver(&mut self, items: Range<usize>, response: Res) {
        self.delivered.push(Answer::new(items, response));
    }

    pub(super) fn fail(
        &mut self,
        items: Range<usize>,
        cause: Cause,
        result: Result<Res, BoxError>,
    ) {
        let (answer, error) = match result {
            Ok(response) => (Some(response), None),
            Err(error) => (None, Some(error)),
        };
        let failure = Failure {
            items,
            cause: Some(cause),
            error,
        };
        self.failed.push((failure, answer));
    }

    pub(super) fn not_sent(&mut self, items: Range<usize>) {
        let failure = Failure {
            items,
            cause: None,
            error: None,
        };
        self.failed.push((failure, None));
    }

    /// What became of a request that went again whole, and in no parts.
    pub(super) fn only(mut self) -> Result<Result<Res, BoxError>, Self> {
        match (&self.delivered[..], &self.failed[..]) {
            ([_], []) | ([], [_]) => {}
            _ => return Err(self),
        }
        if let Some(answer) = self.delivered.pop() {
            return Ok(Ok(answer.response));
        }
        match self.failed.pop() {
            Some((_, Some(response))) => Ok(Ok(response)),
            Some((
                Failure {
                    error: Some(error), ..
                },
                None,
            )) => Ok(Err(error)),
            other => {
                self.failed.extend(other);
                Err(self)
            }
        }
    }

    /// The answers of a request that was delivered whole, in the order of its
    /// items; otherwise what there is.
    pub(super) fn finish(mut self) -> Result<Vec<Answer<Res>>, PartialFailure>
    where
        Res: Send + 'static,
    {
        self.delivered.sort_by_key(|answer| answer.items.start);
        self.failed.sort_by_key(|(failure, _)| failure.items.start);
        if self.failed.is_empty() {
            return Ok(self.delivered);
        }
        Err(self.into_failure(None))
    }

    /// All of it was delivered, and the answers make no whole.
    pub(super) fn unmerged(answers: Vec<Answer<Res>>, why: BoxError) -> PartialFailure
    where
        Res: Send + 'static,
    {
        let gathered = Self {
            delivered: answers,
            failed: Vec::new(),
        };
        gathered.into_failure(Some(why))
    }

    fn into_failure(self, unmerged: Option<BoxError>) -> PartialFailure
    where
        Res: Send + 'static,
    {
        let delivered = self.delivered.iter().map(|answer| answer.items.len());
        let delivered = delivered.sum();
        let (failures, failed) = self.failed.into_iter().unzip();
        let answers = Answers {
            delivered: self.delivered,
            failed,
        };
        PartialFailure {
            delivered,
            failures,
            unmerged,
            answers: Mutex::new(Box::new(answers)),
        }
    }
}
