//! Calls that are polled by hand, each with a waker of its own, so that polls
//! and wakes can be counted.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use http::{Request, Response};
use tokio::sync::oneshot;
use tower::{Service, service_fn, util::ServiceFn};
use tower_layer::Layer;
use tower_weir::{
    BoxError,
    aimd::{AimdConcurrency, AimdConcurrencyLayer, AimdHandle, LimiterSnapshot},
};

/// Carries the status that the call is answered with.
type Answer = oneshot::Receiver<u16>;
type Answering = Pin<Box<dyn Future<Output = Result<Response<String>, BoxError>> + Send>>;
pub(crate) type Client = AimdConcurrency<ServiceFn<fn(Request<Answer>) -> Answering>>;
pub(crate) type Call = <Client as Service<Request<Answer>>>::Future;
pub(crate) type Reply = <Call as Future>::Output;

/// The server: answers a call when, and as, it is told.
fn answer(request: Request<Answer>) -> Answering {
    Box::pin(async {
        let status = request.into_body().await?;
        Ok(Response::builder().status(status).body("done".into())?)
    })
}

pub(crate) fn client(layer: &AimdConcurrencyLayer) -> Client {
    layer.layer(service_fn(answer))
}

/// A call to `host`, and the way to answer it.
pub(crate) fn call(client: &mut Client, host: &str) -> (oneshot::Sender<u16>, Call) {
    let (tell, told) = oneshot::channel();
    let request = Request::get(format!("http://{host}/")).body(told);
    (tell, client.call(request.unwrap()))
}

/// A call that has been answered.
pub(crate) async fn ask(client: &mut Client, host: &str, status: u16) -> Reply {
    let (tell, call) = call(client, host);
    tell.send(status).unwrap();
    call.await
}

pub(crate) fn host(handle: &AimdHandle, name: &str) -> LimiterSnapshot {
    let hosts = handle.snapshot();
    let known = hosts.into_iter().find(|(host, _)| **host == *name);
    known.expect("a known host").1
}

/// Whose waker was woken, in order.
#[derive(Default)]
struct Woken {
    queue: Mutex<VecDeque<usize>>,
}

struct Task {
    number: usize,
    woken: Arc<Woken>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.woken.queue.lock().unwrap().push_back(self.number);
    }
}

/// Many calls, each of them a task.
#[derive(Default)]
pub(crate) struct Crowd {
    tasks: Vec<(Option<Pin<Box<Call>>>, Waker)>,
    woken: Arc<Woken>,
    pub(crate) polls: usize,
    pub(crate) wakes: usize,
}

impl Crowd {
    /// `calls` calls that are answered with 200 as soon as they are sent.
    pub(crate) fn waiting(client: &mut Client, calls: usize) -> Self {
        let mut crowd = Self::default();
        for number in 0..calls {
            let (tell, call) = call(client, "a");
            tell.send(200).unwrap();
            let woken = crowd.woken.clone();
            let waker = Arc::new(Task { number, woken }).into();
            crowd.tasks.push((Some(Box::pin(call)), waker));
        }
        for number in 0..calls {
            assert!(crowd.poll(number).is_none(), "call {number} has to wait");
        }
        crowd
    }

    pub(crate) fn poll(&mut self, number: usize) -> Option<Reply> {
        let (slot, waker) = &mut self.tasks[number];
        let call = slot.as_mut()?;
        self.polls += 1;
        match call.as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Pending => None,
            Poll::Ready(reply) => {
                *slot = None;
                Some(reply)
            }
        }
    }

    /// Polls whoever was woken until nobody is; returns the replies, in order.
    pub(crate) fn run(&mut self) -> Vec<(usize, Reply)> {
        let mut replies = Vec::new();
        while let Some(number) = self.next_woken() {
            let reply = self.poll(number);
            replies.extend(reply.map(|reply| (number, reply)));
        }
        replies
    }

    /// Who was woken next, if anybody was.
    pub(crate) fn next_woken(&mut self) -> Option<usize> {
        let next = self.woken.queue.lock().unwrap().pop_front();
        self.wakes += usize::from(next.is_some());
        next
    }

    pub(crate) fn cancel(&mut self, number: usize) {
        self.tasks[number].0 = None;
    }
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
