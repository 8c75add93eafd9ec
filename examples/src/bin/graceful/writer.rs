use std::{fmt, fs, io, path::Path};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tower::{Service, ServiceExt};
use tower_weir::{BoxError, error::ShuttingDown, outcome::Processed};

/// How many records are being delivered at most.
const AT_ONCE: usize = 32;

/// What became of the records that the writer was given.
#[derive(Debug, Default)]
pub(crate) struct Account {
    given: usize,
    delivered: usize,
    /// They were not sent, or the upstream did not act on them.
    unsent: Vec<String>,
    /// The upstream may have acted on them. Records are stored by their ids, so
    /// that to send one again does no harm.
    in_doubt: Vec<String>,
}

enum Fate {
    Delivered,
    Unsent(String),
    InDoubt(String),
}

/// Delivers what comes until the other end is closed or `stopped`.
pub(crate) async fn write<S, B>(
    client: S,
    url: String,
    mut queue: mpsc::Receiver<String>,
    mut stopped: oneshot::Receiver<()>,
) -> Account
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError, Future: Send>,
    S: Clone + Send + 'static,
    B: Body<Data: Send> + Send + 'static,
{
    let mut account = Account::default();
    let mut deliveries = JoinSet::new();
    loop {
        tokio::select! {
            id = queue.recv() => {
                let Some(id) = id else { break };
                account.given += 1;
                let delivery = deliver(client.clone(), url.clone(), id);
                deliveries.spawn(delivery);
            }
            // what is in the queue still comes
            _ = &mut stopped, if !queue.is_closed() => queue.close(),
            Some(fate) = deliveries.join_next() => account.enter(fate),
        }
        while deliveries.len() >= AT_ONCE
            && let Some(fate) = deliveries.join_next().await
        {
            account.enter(fate);
        }
    }
    while let Some(fate) = deliveries.join_next().await {
        account.enter(fate);
    }
    account
}

async fn deliver<S, B>(client: S, url: String, id: String) -> Fate
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError>,
    B: Body<Data: Send> + Send + 'static,
{
    let record = format!(r#"{{"id": "{id}", "vector": [0.5]}}"#);
    let sent = async {
        let request = Request::post(url).body(Full::from(record))?;
        let response = client.oneshot(request).await?;
        let status = response.status();
        // read for its connection's sake; the head has told what there is to know,
        // and bodies are not cut when the grace is over
        tokio::spawn(async move { drop(response.into_body().collect().await) });
        Ok::<_, BoxError>(status.is_success())
    };
    match sent.await {
        Ok(true) => Fate::Delivered,
        // it says itself whether it was sent
        Err(error) => match error.downcast_ref::<ShuttingDown>() {
            Some(down) if down.processed() == Processed::No => Fate::Unsent(id),
            _ => Fate::InDoubt(id),
        },
        Ok(false) => Fate::InDoubt(id),
    }
}

impl Account {
    fn enter(&mut self, fate: Result<Fate, tokio::task::JoinError>) {
        match fate {
            Ok(Fate::Delivered) => self.delivered += 1,
            Ok(Fate::Unsent(id)) => self.unsent.push(id),
            Ok(Fate::InDoubt(id)) => self.in_doubt.push(id),
            // it shows in the sum
            Err(panicked) => tracing::error!(%panicked, "a delivery was lost"),
        }
    }

    /// Writes down what was not delivered, each id with how sure that is.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let unsent = self.unsent.iter().map(|id| format!("{id} unsent\n"));
        let in_doubt = self.in_doubt.iter().map(|id| format!("{id} in-doubt\n"));
        fs::write(path, unsent.chain(in_doubt).collect::<String>())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} given: {} delivered, {} unsent, {} in doubt",
            self.given,
            self.delivered,
            self.unsent.len(),
            self.in_doubt.len()
        )
    }
}
