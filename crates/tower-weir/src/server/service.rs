use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Version, header, request::Parts};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    AdmissionBody, AdmissionConfig, Class, ClassTable, Rejected, ServerGate,
    attended::{Told, Turn},
    future::ResponseFuture,
    layer::{Classes, Settings},
    pass::{Goes, Keeps, Pass, Terms},
    rejection::Why,
    table::by_method,
};
use crate::{
    BoxError,
    admit::{
        Count, Entered, Granted, Patience, Registry, Wish, enter,
        gate::{Ask, Gate, Load},
    },
    deadline::far,
    error::ShuttingDown,
    observe::{Event, Refused},
    outcome::Protocol,
    random::Seed,
    shutdown::Shutdown,
};

/// What all services of one layer value share.
///
/// What they read is on other lines of the cache than the count of them, which each
/// clone changes. What every operation needs is on the first of them.
#[repr(C, align(64))]
pub(super) struct Shared {
    pub(super) registry: Arc<Registry<ServerGate>>,
    plain: Plain,
    /// The lane of nearly all operations.
    record: usize,
    unsized_body: u64,
    keeps: Keeps,
    is_adaptive: bool,
    pub(super) settings: Settings,
    /// The lanes, which do not change while the layer runs.
    lanes: AdmissionConfig,
    waiting: Count,
    /// Later than any delay ends: those are bounded by the gate.
    horizon: Instant,
}

/// Where a request's class comes from, if nothing else is to be found out of it.
pub(super) enum Plain {
    ByMethod,
    Table(Arc<ClassTable>),
    Not,
}

impl Shared {
    pub(super) fn new(settings: Settings, mut config: AdmissionConfig) -> Self {
        config.max_hold = settings.max_hold;
        let seed = settings.seed.unwrap_or_else(|| Seed::random().get());
        let seam = settings.seam.clone();
        let lanes = config.clone();
        let registry = Registry::new(config, seed, settings.max_keys, "".into(), seam);
        Self {
            registry: Arc::new(registry.joined(settings.shutdown.as_ref())),
            // A law is asked first: nobody goes at once.
            plain: match lanes.is_adaptive() {
                true => Plain::Not,
                false => settings.plain(),
            },
            record: lanes.lane_of(Class::RECORD),
            unsized_body: settings.unsized_body,
            keeps: Keeps::of(settings.max_hold),
            is_adaptive: lanes.is_adaptive(),
            settings,
            lanes,
            waiting: Count::default(),
            horizon: far(Instant::now(), Duration::MAX),
        }
    }

    /// An operation that comes when the shutdown has begun.
    fn refuse(&self, key: &str) -> BoxError {
        let seam = self.registry.seam();
        seam.tell(key, Event::Refused(Refused::ShuttingDown));
        ShuttingDown::unsent(key.into()).into()
    }

    #[inline]
    fn lane_of(&self, class: Class) -> usize {
        match class.is_record() {
            true => self.record,
            false => self.other_lane_of(class),
        }
    }

    #[cold]
    fn other_lane_of(&self, class: Class) -> usize {
        self.lanes.lane_of(class)
    }

    /// The class of a request of a layer that has no keys and counts nothing: a
    /// table says it, and there is nothing else to be found out.
    #[inline(always)]
    fn plain_class<B>(&self, request: &Request<B>) -> Option<Class> {
        match &self.plain {
            Plain::ByMethod => Some(by_method(request.method())),
            Plain::Table(table) => Some(table.class_of(request)),
            Plain::Not => None,
        }
    }

    /// Lets an operation of such a layer go, if nothing is in its way.
    ///
    /// A server that answers a request comes from the kernel, and has nothing of what
    /// follows in the caches that are next to the processor: this is in one piece, and
    /// all that is seldom is elsewhere.
    #[inline(never)]
    fn admit_at_once(&self, weight: usize, load: Load, terms: Terms) -> Option<Pass> {
        let now = Instant::now();
        let entry = self.registry.nameless();
        let asked = Ask {
            now,
            weight,
            crowded: false,
            load,
            place: None,
        };
        let ticket = entry.admit_at_once(|gate| gate.admit(&asked))?;
        let granted = Granted {
            entry: entry.clone(),
            ticket,
            at: None,
            deadline: None,
        };
        Some(Pass::new(granted, terms))
    }

    #[inline]
    fn load(&self, class: Class, bytes: u64) -> Load {
        Load {
            lane: self.lane_of(class),
            bytes,
            frees: class.frees(),
        }
    }

    fn wish(&self, class: Class, bytes: u64) -> Wish {
        Wish {
            patience: Patience {
                until: self.horizon,
                deadline: None,
            },
            weight: class.weight(),
            load: self.load(class, bytes),
        }
    }

    /// Which protocol tells how an operation has ended, and how its slot is kept until
    /// then. Over HTTP/1 only gRPC-Web is another than HTTP, and how its calls end
    /// matters to a law. Without one, a cancelled call counts as a typical operation.
    #[inline]
    fn terms<B>(&self, request: &Request<B>) -> Terms {
        let protocol = match request.version() < Version::HTTP_2 && !self.is_adaptive {
            true => Protocol::Http,
            false => Protocol::of(request.headers()),
        };
        let keeps = self.keeps;
        Terms { protocol, keeps }
    }

    /// What an operation is told that the admission has refused.
    pub(super) fn rejected(&self, error: BoxError, class: &'static str) -> Rejected {
        match error.downcast::<Rejected>() {
            Ok(rejected) => *rejected,
            // The admission's own refusal, which a layer for servers knows only
            // one of.
            Err(error) if is_cut(&error) => Rejected {
                why: Why::Cut,
                class,
                // To be told when to come again is to be told that it was not done.
                retry_after: None,
            },
            Err(_) => Rejected {
                why: Why::Draining,
                class,
                retry_after: Some(self.settings.drain_retry_after),
            },
        }
    }
}

/// The service of [`AdmissionLayer`](super::AdmissionLayer).
///
/// It is always ready; the inner service is polled ready once an operation's turn
/// has come, and its errors pass through. A rejection is a response.
pub struct Admission<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Admission<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S: Clone> Clone for Admission<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.shared.clone())
    }
}

impl<S: fmt::Debug> fmt::Debug for Admission<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S> Admission<S> {
    /// A request that has to be looked at in full, or to wait, or to be rejected.
    #[inline(never)]
    fn call_in_full<B>(&mut self, mut request: Request<B>) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>> + Clone,
        B: Body,
    {
        let shared = &self.shared;
        let settings = &shared.settings;
        if !settings.enabled {
            return ResponseFuture::send(&mut self.inner, request, None);
        }
        let class = match &settings.classes {
            Classes::Table(table) => table.class_of(&request),
            Classes::Function(of) => {
                let class;
                (request, class) = with_head(request, |parts| of(parts));
                class
            }
        };
        if class.is_exempt() {
            return ResponseFuture::send(&mut self.inner, request, None);
        }
        let now = Instant::now();
        let bytes = bytes(&request, shared.unsized_body);
        let wish = shared.wish(class, bytes);
        let presence = settings.shutdown.as_ref().map(Shutdown::enter);
        let refused = matches!(presence, Some(None));
        let keyed = match &settings.keys {
            Some(keys) => {
                let keyed;
                (request, keyed) = with_head(request, |parts| match &*keys(parts) {
                    key if refused => Err(shared.refuse(key)),
                    key => Ok(Some(shared.registry.get(key))),
                });
                keyed
            }
            None if refused => Err(shared.refuse("")),
            None => Ok(None),
        };
        let entered = keyed.and_then(|keyed| {
            let entry = keyed.as_ref();
            let entry = entry.unwrap_or_else(|| shared.registry.nameless());
            // The gate bounds how many wait.
            enter::<_, Goes>(entry, now, wish, || shared.waiting.enter(usize::MAX))
        });
        let presence = presence.flatten();
        let terms = shared.terms(&request);
        let inner = &mut self.inner;
        match entered {
            Ok(Entered::Admitted(goes)) => {
                let pass = goes.on(terms);
                // One that is not counted gets no answer from this layer.
                if presence.is_none() {
                    return ResponseFuture::send(inner, request, Some(pass));
                }
                let told = Told::new(shared, class, request.headers(), presence);
                ResponseFuture::send_counted(inner, request, pass, told)
            }
            Ok(Entered::Waiting(waiter)) => {
                let told = Told::new(shared, class, request.headers(), presence);
                let turn = Turn {
                    waiter,
                    since: now,
                    terms,
                };
                ResponseFuture::wait(inner, request, turn, told)
            }
            Err(error) => {
                let told = Told::new(shared, class, request.headers(), presence);
                ResponseFuture::reject(error, request, told)
            }
        }
    }
}

impl<S, B, R> Service<Request<B>> for Admission<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    B: Body,
    R: Body<Data = bytes::Bytes>,
{
    type Response = Response<AdmissionBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    // Not within its caller, who would make the future in one place and move it to
    // the next.
    #[inline(never)]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = &*self.shared;
        let Some(class) = shared.plain_class(&request) else {
            return self.call_in_full(request);
        };
        let pass = match class.is_exempt() {
            true => None,
            false => {
                let bytes = bytes(&request, shared.unsized_body);
                let (weight, load) = (class.weight(), shared.load(class, bytes));
                let pass = shared.admit_at_once(weight, load, shared.terms(&request));
                if pass.is_none() {
                    return self.call_in_full(request);
                }
                pass
            }
        };
        ResponseFuture::send(&mut self.inner, request, pass)
    }
}

fn is_cut(error: &BoxError) -> bool {
    let down = error.downcast_ref::<ShuttingDown>();
    down.is_some_and(ShuttingDown::is_cut)
}

/// Shows a function the whole head, which costs moving the request.
fn with_head<B, T>(request: Request<B>, read: impl FnOnce(&Parts) -> T) -> (Request<B>, T) {
    let (parts, body) = request.into_parts();
    let read = read(&parts);
    (Request::from_parts(parts, body), read)
}

/// How large a request's body is: what it says itself, or its head, or else
/// what it has at least, and `assumed` if that is more.
fn bytes<B: Body>(request: &Request<B>, assumed: u64) -> u64 {
    let hint = request.body().size_hint();
    hint.exact()
        .or_else(|| content_length(request.headers().get(header::CONTENT_LENGTH)?))
        .unwrap_or(hint.lower().max(assumed))
}

fn content_length(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}
