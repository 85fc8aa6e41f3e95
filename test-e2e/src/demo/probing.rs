//! Asking every cell of the matrix from inside the pods.
//!
//! Target by target: first those who must reach it, then at once those who must not, so that each silence has a
//! control, an answer of the same interface within the five seconds before. Within a target at most [`AT_ONCE`]
//! questions are out; they are joined before the next target, and dropping the future drops them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::stream::{self, StreamExt as _};
use serde::{Deserialize, Serialize};

use super::matrix::{self, Cell};
use super::pods::{Interface, PodClient, in_netns};
use crate::cluster::Cluster;

/// Questions out at the same time.
const AT_ONCE: usize = 12;
/// How old an answer may be that a silence is measured against.
const CONTROL: Duration = Duration::from_secs(5);
/// How often a program is tried to be run in a pod.
const EXECS: u32 = 3;
/// Tries of a cell that must stay silent, of a second each.
const TRIES: &str = "3";

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// UID of the pod.
    pub pod_uid: String,
    /// The interface that was reached.
    pub interface: String,
}

/// What came of a cell.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The question.
    pub cell: Cell,
    /// Who answered, if anybody.
    pub answered_by: Option<Identity>,
    /// Did exactly the intended pod and interface answer.
    pub reachable: bool,
    /// Did the target answer a cell of its own network within the 5 s before this one began; true for such a cell
    /// itself when it was answered.
    pub control: bool,
}

impl Outcome {
    /// Is it as it must be.
    pub fn is_right(&self) -> bool {
        self.reachable == self.cell.same_network && self.control
    }
}

/// What the probe prints.
#[derive(Deserialize)]
struct Answer {
    answered_by: Option<Identity>,
}

/// Asks every cell.
pub async fn probe_all(cluster: &Cluster, all: &[Interface]) -> Result<Vec<Outcome>> {
    let client = PodClient::new(cluster).await?;
    let cells = matrix::cells(all);
    let mut outcomes = Vec::with_capacity(cells.len());
    for to in 0..all.len() {
        let of_target = |same: bool| {
            cells.iter().filter(move |c| c.to == to && c.same_network == same).cloned().collect::<Vec<_>>()
        };
        let friends = ask(&client, all, of_target(true), None).await?;
        let mut last = friends.iter().filter(|(o, _)| o.reachable).map(|(_, at)| *at).max();
        outcomes.extend(friends.into_iter().map(|(outcome, _)| outcome));
        for batch in of_target(false).chunks(AT_ONCE) {
            if last.is_none_or(|at| at.elapsed() > CONTROL / 2) {
                last = renew(&client, all, &of_target(true)).await?;
            }
            for cell in batch.iter().filter(|cell| cell.static_neighbour) {
                static_neighbour(cluster, all, cell)?;
            }
            let strangers = ask(&client, all, batch.to_vec(), last).await?;
            let (measured, late): (Vec<_>, Vec<_>) =
                strangers.into_iter().map(|(outcome, _)| outcome).partition(|outcome| outcome.control);
            outcomes.extend(measured);
            // On a busy machine a question can begin too long after its control: it is put again after a new one.
            if !late.is_empty() {
                last = renew(&client, all, &of_target(true)).await?;
                let cells = late.into_iter().map(|outcome| outcome.cell).collect();
                let again = ask(&client, all, cells, last).await?;
                outcomes.extend(again.into_iter().map(|(outcome, _)| outcome));
            }
        }
        let (done, total) = (outcomes.len(), cells.len());
        cluster.progress(&format!("asked {} of {}: {done} of {total} cells", all[to].interface, all[to].pod));
    }
    Ok(outcomes)
}

/// Asks the target once more from its own network, for a fresh control.
async fn renew(client: &PodClient, all: &[Interface], friends: &[Cell]) -> Result<Option<Instant>> {
    let Some(cell) = friends.first() else { return Ok(None) };
    let again = ask(client, all, vec![cell.clone()], None).await?;
    Ok(again.into_iter().find(|(outcome, _)| outcome.reachable).map(|(_, at)| at))
}

/// Asks these cells, and says when each was answered.
async fn ask(
    client: &PodClient,
    all: &[Interface],
    cells: Vec<Cell>,
    control: Option<Instant>,
) -> Result<Vec<(Outcome, Instant)>> {
    let questions = cells.into_iter().map(|cell| one(client, all, cell, control));
    let answers: Vec<_> = stream::iter(questions).buffer_unordered(AT_ONCE).collect().await;
    answers.into_iter().collect()
}

async fn one(
    client: &PodClient,
    all: &[Interface],
    cell: Cell,
    control: Option<Instant>,
) -> Result<(Outcome, Instant)> {
    let (from, to) = (&all[cell.from], &all[cell.to]);
    let args = [
        "probe",
        "--interface",
        &from.interface,
        "--target",
        &cell.target.to_string(),
        "--source",
        &cell.source.to_string(),
        "--tries",
        TRIES,
        "--timeout-ms",
        "1000",
    ]
    .map(str::to_owned);
    let mut attempt = 1;
    let (value, fresh) = loop {
        let fresh = control.is_some_and(|at| at.elapsed() <= CONTROL);
        // The probe prints an answer whatever the network does: without one it was not run.
        match client.probe(&from.pod, &args).await {
            Ok(value) => break (value, fresh),
            Err(error) if attempt == EXECS => return Err(error),
            Err(error) => eprintln!("trying again: {error:#}"),
        }
        attempt += 1;
    };
    let answer: Answer = serde_json::from_value(value).context("reading the probe's answer")?;
    let intended = Identity { pod_uid: to.pod_uid.clone(), interface: to.interface.clone() };
    let reachable = answer.answered_by.as_ref() == Some(&intended);
    let control = if cell.same_network { reachable } else { fresh };
    Ok((Outcome { cell, answered_by: answer.answered_by, reachable, control }, Instant::now()))
}

/// Tells the source where the target is, as no answer to an ARP request ever would.
fn static_neighbour(cluster: &Cluster, all: &[Interface], cell: &Cell) -> Result<()> {
    let (from, to) = (&all[cell.from], &all[cell.to]);
    let target = cell.target.to_string();
    let words =
        ["ip", "neigh", "replace", &target, "lladdr", &to.mac, "dev", &from.interface, "nud", "permanent"];
    in_netns(cluster.node(&from.node)?, &from.netns, &words)
        .map(drop)
        .with_context(|| format!("giving {} a neighbour entry for {target}", from.pod))
}
