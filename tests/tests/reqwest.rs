//! reqwest's client under the layers, as docs/retry.md has it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use tests::{
    BoxError,
    script::{Script, says},
};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_weir::{
    Weir,
    observe::Event,
    outcome::{Cause, Fault},
    retry::{ReplayBody, Retried, backoff::Constant},
};
use tower_weir_testkit::fault::{
    Fault::{Hang, Refused},
    Server,
};

const AT_ONCE: Constant = Constant::new(Duration::from_millis(1));

fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder().retry(reqwest::retry::never())
}

/// The stack of the recipe, whose answers are reqwest's own again.
fn stack(
    weir: Weir,
    client: reqwest::ClientBuilder,
) -> impl Service<Request<reqwest::Body>, Response = reqwest::Response, Error = BoxError> + Clone {
    let client = client.build().unwrap();
    ServiceBuilder::new()
        .map_response(|answer: Response<_>| {
            reqwest::Response::from(answer.map(reqwest::Body::wrap))
        })
        .layer(weir.backoff(AT_ONCE))
        .service_fn(move |request: Request<ReplayBody<reqwest::Body>>| {
            let client = client.clone();
            async move {
                let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))?;
                let answer = client.execute(request).await?;
                Ok::<_, reqwest::Error>(Response::<reqwest::Body>::from(answer))
            }
        })
}

#[tokio::test]
async fn a_request_that_reqwest_has_built_is_retried_with_its_body() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let server = Script::start(move |number, request| {
        let (head, body) = request.into_parts();
        let length = head.headers["content-length"].clone();
        keep.lock().unwrap().push((head.method, length, body));
        match number {
            1 | 2 => says(StatusCode::SERVICE_UNAVAILABLE, &[], "busy"),
            _ => says(StatusCode::OK, &[], "stored"),
        }
    })
    .await;

    let builder = client().build().unwrap().put(server.url());
    let request = builder.body("a record").build().unwrap();
    let request = Request::<reqwest::Body>::try_from(request).unwrap();
    let stack = stack(Weir::http(), client());
    let answer = stack.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.extensions().get::<Retried>().unwrap().attempts, 3);
    assert_eq!(answer.text().await.unwrap(), "stored");

    let sent = (
        Method::PUT,
        http::HeaderValue::from_static("8"),
        Bytes::from("a record"),
    );
    assert_eq!(*kept.lock().unwrap(), vec![sent; 3]);
}

/// The causes for which requests were sent again.
#[derive(Clone, Default)]
struct Causes(Arc<Mutex<Vec<Cause>>>);

impl Causes {
    fn of(&self, weir: Weir) -> Weir {
        let causes = self.clone();
        weir.observe(move |_, event| {
            if let Event::Retry { cause, .. } = event {
                causes.0.lock().unwrap().push(*cause);
            }
        })
    }
}

#[tokio::test]
async fn a_connection_that_reqwest_cannot_make_is_known_for_what_it_is() {
    let server = Server::start(Refused).await.unwrap();
    let causes = Causes::default();
    let stack = stack(causes.of(Weir::http().max_retries(2)), client());
    // It was never sent: any method is repeated.
    let request = Request::post(server.url());
    let request = request.body(reqwest::Body::from("a record")).unwrap();
    let error = stack.oneshot(request).await.unwrap_err();
    assert!(error.downcast_ref::<reqwest::Error>().unwrap().is_connect());
    assert_eq!(*causes.0.lock().unwrap(), [Cause::Fault(Fault::Connect); 2]);
}

#[tokio::test]
async fn a_timeout_is_known_for_one_if_it_is_the_layers_own() {
    let soon = Duration::from_millis(40);
    let own = Weir::http().attempt_timeout(soon);
    let foreign = Weir::http();
    for (weir, client, expected) in [
        (own, client(), Fault::AttemptTimeout),
        (foreign, client().timeout(soon), Fault::Other),
    ] {
        let server = Server::start(Hang).await.unwrap();
        let causes = Causes::default();
        let stack = stack(causes.of(weir.max_retries(1)), client);
        let request = Request::get(server.url()).body(reqwest::Body::default());
        stack.oneshot(request.unwrap()).await.unwrap_err();
        assert_eq!(*causes.0.lock().unwrap(), [Cause::Fault(expected)]);
    }
}
