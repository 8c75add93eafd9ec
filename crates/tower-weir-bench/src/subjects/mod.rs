//! Everything that is measured, behind one way to call it.

mod floor;
mod ours;
mod resilience;
mod rivals;
mod server;
mod tower_own;
mod web;

use std::{
    cell::Cell,
    fmt,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::Pin,
};

use tower::{Service, ServiceExt, util::ServiceFn};

pub use self::ours::hosts;
pub(crate) use self::{
    ours::{one_slot as our_slot, web_stack},
    resilience::one_slot as resilience_slot,
    tower_own::one_slot as tower_slot,
    web::{Page, request},
};

/// A subject that is measured, by its name.
pub struct Subject {
    /// What the output calls it.
    pub name: String,
    pub(crate) drive: Box<dyn Drive>,
}

impl Subject {
    fn new(name: impl Into<String>, call: impl Call) -> Self {
        Self {
            name: name.into(),
            drive: Box::new(call),
        }
    }

    /// Makes `calls` calls, one after the other.
    ///
    /// # Errors
    ///
    /// What the first call that fails says.
    pub fn run(
        &mut self,
        calls: u64,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        self.drive.run(calls)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subject").field(&self.name).finish()
    }
}

/// One way to call something, clones of which share its state.
pub(crate) trait Call: Clone + Send + 'static {
    type Error: fmt::Debug + Send;

    fn call(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The size of the future that the middleware under test returns, in bytes.
    fn future_size(&mut self) -> usize;
}

/// A [`Call`] of any type.
pub(crate) trait Drive: Send {
    fn run(&mut self, calls: u64) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
    fn fork(&self) -> Box<dyn Drive>;
    fn future_size(&mut self) -> usize;
}

impl<C: Call> Drive for C {
    fn run(&mut self, calls: u64) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move {
            for _ in 0..calls {
                self.call().await.map_err(|error| format!("{error:?}"))?;
            }
            Ok(())
        })
    }

    fn fork(&self) -> Box<dyn Drive> {
        Box::new(self.clone())
    }

    fn future_size(&mut self) -> usize {
        Call::future_size(self)
    }
}

/// What the inner service of the generic subjects fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the inner service failed")
    }
}

impl std::error::Error for Fault {}

/// The number that the inner service fails on.
const BAD: u64 = u64::MAX;

thread_local! {
    /// How often it was reached with that.
    static REACHED: Cell<u64> = const { Cell::new(0) };
}

type Inner = ServiceFn<fn(u64) -> Ready<Result<u64, Fault>>>;

/// The inner service of all generic subjects: ready, and done at once.
fn inner() -> Inner {
    fn answer(n: u64) -> Ready<Result<u64, Fault>> {
        if n == BAD {
            REACHED.with(|reached| reached.set(reached.get() + 1));
            return ready(Err(Fault));
        }
        ready(Ok(n))
    }
    tower::service_fn(answer)
}

/// A tower service, and what makes the requests for it.
#[derive(Clone)]
pub(crate) struct Tower<S, F> {
    service: S,
    make: F,
}

/// Calls `service` with a number.
fn number<S: Service<u64>>(
    service: S,
    number: u64,
) -> Tower<S, impl FnMut() -> u64 + Clone + Send + 'static> {
    let make = move || black_box(number);
    Tower { service, make }
}

/// A service of numbers as a subject.
fn generic_subject<S>(name: impl Into<String>, service: S) -> Subject
where
    S: Service<u64, Response = u64> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: fmt::Debug + Send,
{
    Subject::new(name, number(service, 1))
}

impl<S, F, Req> Call for Tower<S, F>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Answer,
    S::Error: fmt::Debug + Send,
    F: FnMut() -> Req + Clone + Send + 'static,
    Req: Send,
{
    type Error = S::Error;

    async fn call(&mut self) -> Result<(), S::Error> {
        let request = (self.make)();
        let response = self.service.ready().await?.call(request).await?;
        response.consume().await;
        Ok(())
    }

    fn future_size(&mut self) -> usize {
        let size = async {
            let mut service = self.service.clone();
            let _ = service.ready().await;
            size_of_val(&service.call((self.make)()))
        };
        crate::single_thread().block_on(size)
    }
}

/// A response, which is used up.
pub(crate) trait Answer: Send {
    fn consume(self) -> impl Future<Output = ()> + Send;
}

impl Answer for u64 {
    async fn consume(self) {
        black_box(self);
    }
}

/// A call that must be refused.
#[derive(Clone)]
pub(crate) struct Refused<C>(C);

/// Lets calls fail until the breaker among them refuses.
///
/// # Panics
///
/// If it never does: there would be nothing to measure.
fn refused<C: Call>(mut failing: C) -> Refused<C> {
    let runtime = crate::single_thread();
    let mut call = || {
        let before = REACHED.with(Cell::get);
        let _ = runtime.block_on(failing.call());
        REACHED.with(Cell::get) > before
    };
    let opened = (0..1000).any(|_| !call());
    assert!(opened && !call(), "the breaker does not open");
    Refused(failing)
}

impl<C: Call> Call for Refused<C> {
    type Error = &'static str;

    async fn call(&mut self) -> Result<(), &'static str> {
        match self.0.call().await {
            Err(_) => Ok(()),
            Ok(()) => Err("a call was let through"),
        }
    }

    fn future_size(&mut self) -> usize {
        self.0.future_size()
    }
}

/// Everything that takes a number and returns it.
pub fn generic() -> Vec<Subject> {
    let mut subjects = vec![generic_subject("nothing", inner())];
    subjects.extend(tower_own::generic());
    subjects.extend(resilience::generic());
    subjects.extend(rivals::generic());
    subjects.extend(ours::generic());
    subjects
}

/// The same over HTTP requests with a `Full<Bytes>` and two headers.
pub fn over_http() -> Vec<Subject> {
    let mut subjects = vec![
        web::subject("http: nothing", web::inner()),
        web::fresh("http: nothing, new request", web::inner()),
    ];
    subjects.extend(tower_own::over_http());
    subjects.extend(resilience::over_http());
    subjects.extend(ours::over_http());
    subjects
}

/// Servers, with admission and without.
pub fn servers() -> Vec<Subject> {
    server::all()
}

/// Breakers that are open, and refuse.
pub fn open() -> Vec<Subject> {
    let mut subjects = vec![resilience::open_breaker()];
    subjects.extend(rivals::open_breakers());
    subjects.push(ours::open_breaker());
    subjects.push(ours::open_stack());
    subjects
}

/// The parts of a call that no stack can do without, and a call made of them.
pub fn floor() -> Vec<Subject> {
    floor::parts()
}

/// Breakers over windows of several sizes.
pub fn windows() -> Vec<Subject> {
    let mut subjects = resilience::windows();
    subjects.extend(rivals::windows());
    subjects.extend(ours::windows());
    subjects
}
