//! A scripted upstream, and who gets the letters.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::sync::mpsc;
use tower::{Service, util::BoxCloneService};
use tower_weir::{
    BoxError,
    dead_letter::{ChannelSink, DeadLetterLayer, Letter},
};

pub(crate) type Boxed = UnsyncBoxBody<Bytes, BoxError>;
pub(crate) type Answer = Response<String>;

/// An upstream that reads each request whole and gives its `n`th attempt, from
/// 0, `answer(n)`.
pub(crate) fn upstream<B>(
    answer: impl Fn(usize) -> Answer + Clone + Send + Sync + 'static,
) -> BoxCloneService<Request<B>, Answer, io::Error>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let count = Arc::new(AtomicUsize::new(0));
    BoxCloneService::new(tower::service_fn(move |request: Request<B>| {
        let (count, answer) = (count.clone(), answer.clone());
        async move {
            let body = request.into_body().collect().await;
            body.map_err(|error| io::Error::other(error.into()))?;
            Ok(answer(count.fetch_add(1, Ordering::Relaxed)))
        }
    }))
}

pub(crate) fn layer() -> (DeadLetterLayer, mpsc::Receiver<Letter>) {
    let (letters, received) = mpsc::channel(64);
    (DeadLetterLayer::new(ChannelSink::new(letters)), received)
}

/// The next letter; it must come within a minute.
pub(crate) async fn next(received: &mut mpsc::Receiver<Letter>) -> Letter {
    tokio::select! {
        letter = received.recv() => letter.unwrap(),
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("no letter"),
    }
}

/// Whether no letter comes within a minute.
pub(crate) async fn none(received: &mut mpsc::Receiver<Letter>) -> bool {
    tokio::time::sleep(Duration::from_secs(60)).await;
    received.is_empty()
}

pub(crate) async fn call<S, B, R>(service: &S, request: Request<B>) -> Result<Response<R>, BoxError>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError> + Clone,
{
    tower::ServiceExt::oneshot(service.clone(), request).await
}

pub(crate) fn status(status: u16) -> Answer {
    Response::builder()
        .status(status)
        .body("what the server says".to_owned())
        .unwrap()
}

pub(crate) fn post(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://a.test/upsert")
        .body(Full::from(body))
        .unwrap()
}

/// A request whose body comes frame by frame, as the test sends it.
pub(crate) fn fed() -> (mpsc::UnboundedSender<&'static str>, Request<Boxed>) {
    let (feed, frames) = mpsc::unbounded_channel::<&'static str>();
    let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(frames);
    let frames = tokio_stream::StreamExt::map(frames, |data| {
        Ok::<_, BoxError>(Frame::data(Bytes::from_static(data.as_bytes())))
    });
    let body = StreamBody::new(frames).boxed_unsync();
    (
        feed,
        Request::post("http://a.test/stream").body(body).unwrap(),
    )
}
