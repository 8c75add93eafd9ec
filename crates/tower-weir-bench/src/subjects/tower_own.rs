//! tower's own layers.

use std::{future::Ready, sync::Arc};

use tower::{
    ServiceBuilder,
    limit::ConcurrencyLimitLayer,
    retry::{
        Policy, RetryLayer,
        budget::{Budget, TpsBudget},
    },
};

use super::{Answer, Subject, generic_subject, inner, web};

/// The policy that tower's documentation recommends: a budget, filled by what
/// succeeds, and a bounded number of attempts.
#[derive(Clone)]
struct Budgeted {
    left: usize,
    budget: Arc<TpsBudget>,
}

impl Budgeted {
    fn new() -> Self {
        Self {
            left: 3,
            budget: Arc::default(),
        }
    }
}

impl<Req: Clone, Res: Answer, E> Policy<Req, Res, E> for Budgeted {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Req, result: &mut Result<Res, E>) -> Option<Ready<()>> {
        if result.is_ok() {
            self.budget.deposit();
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        self.budget.withdraw().then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

const SLOTS: usize = 256;

fn limited<S>(inner: S) -> tower::limit::ConcurrencyLimit<S> {
    let limit = ConcurrencyLimitLayer::new(SLOTS);
    ServiceBuilder::new().layer(limit).service(inner)
}

fn retried<S>(inner: S) -> tower::retry::Retry<Budgeted, S> {
    let retry = RetryLayer::new(Budgeted::new());
    ServiceBuilder::new().layer(retry).service(inner)
}

fn both<S>(inner: S) -> tower::retry::Retry<Budgeted, tower::limit::ConcurrencyLimit<S>> {
    retried(limited(inner))
}

pub(super) fn generic() -> Vec<Subject> {
    vec![
        generic_subject("tower ConcurrencyLimit", limited(inner())),
        generic_subject("tower Retry + TpsBudget", retried(inner())),
        generic_subject("tower Retry + ConcurrencyLimit", both(inner())),
    ]
}

pub(super) fn over_http() -> Vec<Subject> {
    vec![
        web::subject("http: tower Retry + TpsBudget", retried(web::inner())),
        web::subject("http: tower Retry + ConcurrencyLimit", both(web::inner())),
    ]
}

/// One slot, for the waiters.
pub(crate) fn one_slot() -> ConcurrencyLimitLayer {
    ConcurrencyLimitLayer::new(1)
}
