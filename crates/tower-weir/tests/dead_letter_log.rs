//! What lost letters say in the log. In a program of its own, since tests that
//! run beside it would register the same call sites with no subscriber.
#![cfg(feature = "dead-letter")]

use std::{
    convert::Infallible,
    fmt::{self, Write},
    future::ready,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};
use tower_weir::dead_letter::{DeadLetterLayer, sink_fn};
use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::{layer::Context, prelude::*};

/// The lines at WARN and above.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() <= Level::WARN {
            let mut line = String::new();
            event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
                write!(line, "{}={value:?} ", field.name()).unwrap();
            });
            self.0.lock().unwrap().push(line);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_lost_letters_are_two_lines() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    let _default = tracing::subscriber::set_default(subscriber);
    let dead = DeadLetterLayer::new(sink_fn(|_| {
        ready(Err(io::Error::from(io::ErrorKind::StorageFull).into()))
    }));
    let service = dead.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::builder().status(500).body(()).unwrap())
    }));
    for _ in 0..1000 {
        let request = Request::get("http://a.test/").body(()).unwrap();
        service.clone().oneshot(request).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let said = || lines.0.lock().unwrap().clone();
    let first = "message=letters of failed requests are lost host=\"a.test\" why=the sink had \
                 an error letters=1 error=\"no storage space\" ";
    assert_eq!(said(), [first]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        said(),
        [first, &first.replace("letters=1 ", "letters=999 ")]
    );
    assert_eq!(dead.handle().lost().failed, 1000);
}
