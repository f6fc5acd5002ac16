//! From what was seen to the node's conditions: whether NVML answers, and what is wrong with single
//! GPUs.

use std::sync::Arc;
use std::time::Duration;

use convoke_model::{Condition, DeviceCondition, DeviceId};
use tokio::time::timeout;

use super::state::{Nvml, State};
use super::{Cleaner, Gpus, health};
use crate::conditions::Conditions;

/// No look for so long is a call that hangs: a look at 16 GPUs takes some 50 ms, and a driver that has
/// to wake them some seconds.
const SILENCE: Duration = Duration::from_secs(10);

/// How long a judgement is waited for: it reads some files of `/proc`, which takes microseconds, or for ever where a
/// process hangs in the driver.
const JUDGING: Duration = Duration::from_secs(2);

/// How soon a GPU that is not clean yet is looked at again: its memory comes back within milliseconds,
/// and the next generation waits for it.
const SOON: Duration = Duration::from_millis(100);

/// Keeps them true for as long as it runs. `held` says that a replica has the GPU.
pub async fn keep_conditions(
    gpus: Gpus,
    cleaner: Cleaner,
    conditions: Conditions,
    held: impl Fn(&DeviceId) -> bool + Send + Sync + 'static,
) {
    let held = Arc::new(held);
    let mut state = gpus.state();
    let (mut judging, mut judged) = (None, Vec::new());
    loop {
        let seen = state.borrow_and_update().clone();
        match down(&seen) {
            Some(why) => conditions.raise(Condition::NVML_DOWN, "", why),
            None => conditions.clear(Condition::NVML_DOWN, ""),
        }
        let mut found: Vec<DeviceCondition> = seen.gpus.iter().flat_map(health::problems).collect();
        let judge = judging.get_or_insert_with(|| {
            let (cleaner, held) = (cleaner.clone(), held.clone());
            tokio::task::spawn_blocking(move || cleaner.judge(&seen, &*held))
        });
        if let Ok(outcome) = timeout(JUDGING, judge).await {
            judging = None;
            judged = outcome.unwrap_or(judged);
        }
        // Of one that takes longer, what was found before it holds.
        found.extend(judged.iter().cloned());
        gpus.tell(found);
        let soon = cleaner.any_open();
        let waited = timeout(if soon { SOON } else { SILENCE }, state.changed()).await;
        if soon && waited.is_err() {
            gpus.look();
        }
        if let Ok(Err(_)) = waited {
            // The thread has crashed, or the agent ends.
            let why = "NVML's thread has ended, this is a bug in convoke-agent: restart the agent (its tasks go on)";
            return conditions.raise(Condition::NVML_DOWN, "", why);
        }
    }
}

fn down(seen: &State) -> Option<String> {
    let silent = seen.taken.is_none_or(|taken| taken.elapsed() >= SILENCE);
    match &seen.nvml {
        Nvml::Down(why) => Some(why.clone()),
        Nvml::Absent => None,
        Nvml::Up | Nvml::Opening if silent => Some(format!(
            "NVML has not answered for more than {} s: a call to it hangs (`nvidia-smi` probably does too; the \
             kernel's log tells more)",
            SILENCE.as_secs()
        )),
        Nvml::Up | Nvml::Opening => None,
    }
}

impl Gpus {
    fn tell(&self, found: Vec<DeviceCondition>) {
        self.problems.send_if_modified(|problems| {
            for new in found.iter().filter(|new| !problems.contains(new)) {
                tracing::warn!(condition = new.name, gpu = %new.device, "{}", new.message);
            }
            for old in problems.iter().filter(|old| !found.contains(old)) {
                tracing::info!(condition = old.name, gpu = %old.device, "cleared");
            }
            let changed = *problems != found;
            *problems = found;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use convoke_model::{Device, DeviceKind};
    use tokio::sync::{mpsc, watch as channel};

    use super::super::Gpu;
    use super::*;

    #[tokio::test]
    async fn a_judgement_that_hangs_holds_up_no_other_condition() {
        let (out, state) = channel::channel(Arc::new(seen(Nvml::Up)));
        let (requests, _received) = std::sync::mpsc::sync_channel(1);
        let gpus = Gpus { state, problems: channel::Sender::new(Vec::new()), requests };
        let (conditions, cleaner) = (Conditions::default(), Cleaner::new(gpus.clone()));
        let (asked, mut was_asked) = mpsc::channel(8);
        let (go_on, hangs) = std::sync::mpsc::sync_channel::<()>(0);
        let hangs = std::sync::Mutex::new(hangs);
        let held = move |_: &DeviceId| {
            let _ = asked.try_send(());
            hangs.lock().unwrap().recv().is_err()
        };
        tokio::spawn(keep_conditions(gpus, cleaner, conditions.clone(), held));
        was_asked.recv().await.unwrap();
        out.send_replace(Arc::new(seen(Nvml::Down("gone".to_owned()))));
        let mut raised = conditions.subscribe();
        let told = raised.wait_for(|raised| raised.values().any(|message| message == "gone"));
        timeout(SILENCE, told).await.expect("it is told meanwhile").unwrap();
        assert!(was_asked.try_recv().is_err(), "one judgement at a time");
        drop(go_on);
    }

    /// A look at one GPU.
    fn seen(nvml: Nvml) -> State {
        let (id, model) = (DeviceId::new("GPU-1").unwrap(), "H100".to_owned());
        let device = Device { id, index: 0, kind: DeviceKind::Gpu, model, memory: 0, gpu: None };
        State { nvml, taken: Some(Instant::now()), gpus: vec![Gpu::new(device)], ..State::default() }
    }

    #[test]
    fn a_library_that_hangs_is_down_and_one_that_is_not_there_is_none() {
        let long_ago = Instant::now().checked_sub(SILENCE).unwrap();
        let up = State { nvml: Nvml::Up, taken: Some(Instant::now()), ..State::default() };
        assert_eq!(down(&up), None);
        assert!(down(&State { taken: Some(long_ago), ..up.clone() }).unwrap().contains("more than 10 s"));
        assert_eq!(down(&State { nvml: Nvml::Absent, taken: Some(long_ago), ..up.clone() }), None);
        let why = Nvml::Down("why".to_owned());
        assert_eq!(down(&State { nvml: why, ..up }), Some("why".to_owned()));
    }
}
