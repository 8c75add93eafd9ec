//! The contract on what each result means to each layer, row by row: a real
//! answer or a real error goes through the layers, and what they do is held
//! against the row.

mod contract;
mod faults;
mod run;
mod scenario;

use std::{rc::Rc, sync::Arc};

use tokio::{
    sync::Semaphore,
    task::{JoinSet, LocalSet},
};

use self::{contract::rows, run::check};

/// How many cases are run at once: each has connections of its own.
const AT_ONCE: usize = 64;

#[tokio::test]
async fn every_row_holds() {
    let broken = LocalSet::new().run_until(run_all()).await;
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

async fn run_all() -> Vec<String> {
    let rows = rows();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut cases = JoinSet::new();
    for row in &rows {
        for scenario in scenario::of(row, &rows).await {
            let scenario = Rc::new(scenario);
            for method in scenario.methods(row) {
                let (row, scenario, room) = (row.clone(), scenario.clone(), room.clone());
                cases.spawn_local(async move {
                    let _place = room.acquire().await;
                    let broken = check(&row, &scenario, &method).await.err()?;
                    let name = &scenario.name;
                    Some(format!("{row} [{name} {method}]: {broken}"))
                });
            }
        }
    }
    cases.join_all().await.into_iter().flatten().collect()
}
