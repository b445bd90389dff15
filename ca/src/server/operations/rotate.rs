//! A rotation by an operator: the whole way, or one step. What is waited for is told on the way. The operator may go away
//! at any time: what was begun is in the store, and the authority's timer finishes it.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::words;
use crate::admin::{Kind, Progress, Refused, RotateStep};
use crate::authority::slot::{Place, Reason};
use crate::server::keyring::{Keyring, Outlook, Refusal};
use crate::server::seconds;
use crate::store::AuthorityKind;

/// How often it is tried whether a step may be done.
const TRY: Duration = Duration::from_millis(500);
/// How often it is told what is waited for when nothing changes.
const TELL: Duration = Duration::from_secs(10);

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub step: Option<RotateStep>,
    pub abort: bool,
    pub force: bool,
}

/// Does it.
pub async fn rotate(
    keyring: &Keyring,
    kind: Kind,
    order: Order,
    progress: &Progress,
) -> Result<Value, Refused> {
    let kind = words::kind_of(kind);
    let mut work = Work {
        keyring,
        kind,
        force: order.force,
        progress,
        told: None,
        broke: Vec::new(),
    };
    match (order.abort, order.step) {
        (true, _) => {
            let id = keyring.abort(kind, SystemTime::now()).await;
            let id = id.map_err(|refusal| work.refused(refusal))?;
            work.answer(json!({"aborted": id}))
        }
        (false, Some(RotateStep::Prepare)) => {
            let prepared = keyring.prepare(kind, true, SystemTime::now()).await;
            let (id, new) = prepared.map_err(|refusal| work.refused(refusal))?;
            work.answer(json!({"prepared": id, "new": new}))
        }
        (false, Some(RotateStep::Activate)) => {
            let id = work.activate().await.map_err(|refusal| work.refused(refusal))?;
            work.answer(json!({"active": id}))
        }
        (false, Some(RotateStep::Retire)) => {
            let gone = work.retire().await.map_err(|refusal| work.refused(refusal))?;
            work.answer(json!({"removed": gone}))
        }
        (false, None) => work.whole().await,
    }
}

struct Work<'a> {
    keyring: &'a Keyring,
    kind: AuthorityKind,
    force: bool,
    progress: &'a Progress,
    told: Option<(Vec<&'static str>, Instant)>,
    broke: Vec<Value>,
}

impl Work<'_> {
    /// Prepared, published, active, and the one before gone.
    async fn whole(&mut self) -> Result<Value, Refused> {
        let begun = Instant::now();
        let before = self.outlook().await?;
        let has = |place| before.slots.iter().any(|slot| slot.place == place);
        // One that waits for its predecessor's end is finished, not begun anew.
        let resumed = has(Place::Prepared) || has(Place::Retired);
        let old = before.slots.iter().filter(|slot| slot.place != Place::Prepared);
        let old: Vec<String> = old.map(|slot| slot.id.clone()).collect();
        if has(Place::Prepared) || !has(Place::Retired) {
            let prepared = self.keyring.prepare(self.kind, false, SystemTime::now()).await;
            let (id, new) = prepared.map_err(|refusal| self.refused(refusal))?;
            self.tell(json!({"step": "prepare", "authority": id, "done": true, "new": new}))
                .await;
            self.until_active(&id).await?;
            self.tell(json!({"step": "activate", "authority": id, "done": true}))
                .await;
        }
        self.until_retired().await?;
        let after = self.outlook().await?;
        let there = |id: &String| after.slots.iter().any(|slot| slot.id == *id);
        let gone: Vec<&String> = old.iter().filter(|id| !there(id)).collect();
        self.tell(json!({"step": "retire", "authorities": gone, "done": true}))
            .await;
        let active = crate::authority::slot::active(&after.slots).map(|slot| slot.id.clone());
        self.answer(json!({
            "active": active, "removed": gone, "resumed": resumed, "seconds": begun.elapsed().as_secs(),
        }))
    }

    async fn until_active(&mut self, id: &str) -> Result<(), Refused> {
        loop {
            let outlook = self.outlook().await?;
            match outlook.slots.iter().find(|slot| slot.id == id) {
                Some(slot) if slot.place == Place::Prepared => {}
                Some(_) => return Ok(()),
                None => {
                    let hint = "`hopguard ca status` shows what there is; begin again";
                    return Err(Refused::new(
                        format!("the authority {id} was taken back meanwhile"),
                        hint,
                    ));
                }
            }
            match self.activate().await {
                // The timer was faster, or another operator.
                Ok(_) | Err(Refusal::Nothing(_)) => {}
                Err(Refusal::Breaks { id, reasons }) => self.wait("activate", &id, &reasons).await,
                Err(failed) => return Err(self.refused(failed)),
            }
        }
    }

    async fn until_retired(&mut self) -> Result<(), Refused> {
        loop {
            match self.retire().await {
                Ok(_) => {}
                Err(Refusal::Nothing(_)) => return Ok(()),
                Err(Refusal::Breaks { id, reasons }) => self.wait("retire", &id, &reasons).await,
                Err(failed) => return Err(self.refused(failed)),
            }
        }
    }

    async fn activate(&mut self) -> Result<String, Refusal> {
        match self.keyring.activate(self.kind, false, SystemTime::now()).await {
            Err(Refusal::Breaks { id, reasons }) if self.force && reasons != [Reason::Unpublished] => {
                self.confess("activate", &id, &reasons).await;
                self.keyring.activate(self.kind, true, SystemTime::now()).await
            }
            other => other,
        }
    }

    async fn retire(&mut self) -> Result<Vec<String>, Refusal> {
        match self.keyring.retire(self.kind, false, SystemTime::now()).await {
            Err(Refusal::Breaks { id, reasons }) if self.force && !reasons.contains(&Reason::Signing) => {
                self.keyring.may_force(&id).await?;
                self.confess("retire", &id, &reasons).await;
                self.keyring.retire(self.kind, true, SystemTime::now()).await
            }
            other => other,
        }
    }

    /// Says what a forced step breaks, before it does.
    async fn confess(&mut self, step: &str, id: &str, reasons: &[Reason]) {
        let breaks = words::breaks(reasons, self.kind, seconds(SystemTime::now()));
        let said = json!({"step": step, "authority": id, "breaks": breaks});
        tracing::warn!(authority = id, step, %said, "a step is forced");
        self.broke.push(said.clone());
        self.tell(said).await;
    }

    /// Says what is waited for when that is news, and waits a little.
    async fn wait(&mut self, step: &str, id: &str, reasons: &[Reason]) {
        let now = seconds(SystemTime::now());
        let shape: Vec<&'static str> = reasons.iter().map(shape).collect();
        let news = match &self.told {
            Some((before, at)) => *before != shape || at.elapsed() >= TELL,
            None => true,
        };
        if news {
            self.told = Some((shape, Instant::now()));
            self.tell(json!({
                "step": step,
                "authority": id,
                "waits_for": words::waits(reasons, self.kind, now),
                "seconds": words::seconds(reasons, now),
            }))
            .await;
        }
        tokio::time::sleep(TRY).await;
    }

    async fn tell(&self, said: Value) {
        let _nobody_listens = self.progress.send(said).await;
    }

    async fn outlook(&self) -> Result<Outlook, Refused> {
        let outlook = self.keyring.outlook(self.kind, SystemTime::now()).await;
        outlook.map_err(|error| Refused::internal(&error))
    }

    fn answer(&self, mut said: Value) -> Result<Value, Refused> {
        if let Some(said) = said.as_object_mut() {
            said.insert("kind".to_owned(), json!(words::name(self.kind)));
            said.insert("sequence".to_owned(), json!(self.keyring.published().sequence));
            said.insert("broke".to_owned(), json!(self.broke));
        }
        Ok(said)
    }

    fn refused(&self, refusal: Refusal) -> Refused {
        match refusal {
            Refusal::Nothing(what) => Refused::new(what, "`hopguard ca status` shows what there is"),
            Refusal::Unsucceeded(kind) => Refused::new(
                format!("no other {} authority is prepared", words::name(kind)),
                "`hopguard ca rotate --step prepare` prepares one",
            ),
            Refusal::Vouched(id) => words::vouched(&id),
            Refusal::Failed(error) => Refused::internal(&error),
            Refusal::Breaks { id, reasons } => {
                let now = seconds(SystemTime::now());
                let line = words::line(&reasons, self.kind, now);
                let hint = match words::seconds(&reasons, now) {
                    Some(left) => format!("wait {left} s at most, or do it all the same by --force"),
                    None => "try again in a moment".to_owned(),
                };
                Refused::new(format!("not with {id}: {line}"), hint)
            }
        }
    }
}

fn shape(reason: &Reason) -> &'static str {
    match reason {
        Reason::Unpublished => "unpublished",
        Reason::Unaware(_) => "unaware",
        Reason::Unread { .. } => "unread",
        Reason::Polls { .. } => "polls",
        Reason::Signed(_) => "signed",
        Reason::Signing => "signing",
        Reason::Held => "held",
    }
}
