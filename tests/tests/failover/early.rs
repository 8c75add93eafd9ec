//! An answer that comes before the request is sent is not the caller's if the rest
//! of it cannot come: the request's body was taken to another region.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Channel};
use tests::{
    BoxError,
    client::{Over, hyper},
    early::{ANSWER, Answers, Early},
    wait::within,
};
use tower::{ServiceExt, service_fn};
use tower_weir::{
    error::CircuitOpen,
    failover::{Failover, Origin, Region},
    retry::ReplayBody,
};

use crate::support::circuit_open;

/// The answer of a region that says 503, where the other one refuses.
async fn answer(over: Over, answers: Answers) -> Result<(u16, Bytes), BoxError> {
    let server = Early::start(answers).await;
    let client = hyper(over);
    let region = service_fn(move |request: Request<ReplayBody<Channel<Bytes>>>| {
        let there = request.uri().host() != Some("b.test");
        let sent = there.then(|| client.request(request));
        async move {
            match sent {
                Some(sent) => sent.await.map_err(BoxError::from),
                None => Err(circuit_open()),
            }
        }
    });
    let failover = Failover::http([
        Region::new("a", region.clone()).at(Origin::new(&server.url).unwrap()),
        Region::new("b", region).at(Origin::new("http://b.test").unwrap()),
    ])
    .unwrap();
    let (mut sender, body) = Channel::new(1);
    sender.send_data(Bytes::from("a beginning")).await.unwrap();
    // Without an end, unless the server waits for it.
    let rest = (answers != Answers::Late).then_some(sender);
    let request = Request::put("http://any.test/").body(body).unwrap();
    let response = within("an answer", failover.oneshot(request)).await?;
    server.finish();
    let status = response.status().as_u16();
    let body = within("its body", response.into_body().collect()).await?;
    drop(rest);
    Ok((status, body.to_bytes()))
}

#[tokio::test]
async fn an_early_answer_whose_rest_cannot_come_is_not_the_callers() {
    for over in [Over::Http1, Over::Http2] {
        let error = answer(over, Answers::Early).await.unwrap_err();
        assert!(error.is::<CircuitOpen>(), "{over:?}: {error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_whole_is_the_callers() {
    for over in [Over::Http1, Over::Http2] {
        let whole = answer(over, Answers::Late).await.unwrap();
        assert_eq!(whole, (503, Bytes::from(ANSWER)), "{over:?}");
        let head = answer(over, Answers::EarlyHead).await.unwrap();
        assert_eq!(head, (503, Bytes::new()), "{over:?}");
    }
}
