//! Where those who deal with one unfinished command meet: who asked for it, who reads its output, and the call that
//! brings it.

use super::{
    ports::{OutputLog, Spec},
    stdin::Stdin,
};
use fleet::View;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::watch;

/// One unfinished command.
pub struct Hub {
    pub id: String,
    /// As it was last durable; `None` while it is being recorded for the first time.
    pub view: watch::Sender<Option<View<Spec>>>,
    /// Output received so far: changes wake the readers.
    pub received: watch::Sender<u64>,
    /// Output made durable by others than the call that brings it.
    pub durable: watch::Sender<u64>,
    /// All of its output, once the agent has told how much there is: `u64::MAX` before.
    pub total: watch::Sender<u64>,
    pub stdin: Stdin,
    /// Why its output could not be kept, and was not since.
    disk_failed: Mutex<Option<String>>,
    /// Open while somebody brings or reads it: of commands that nobody deals with no file is held.
    log: Mutex<Option<Weak<dyn OutputLog>>>,
    opening: Mutex<()>,
}

impl Hub {
    /// `fresh`: nothing of it has been sent to an agent yet. `stdin_end`: as recorded.
    pub fn new(id: String, view: Option<View<Spec>>, fresh: bool, stdin_end: Option<u64>) -> Self {
        Self {
            id,
            view: watch::Sender::new(view),
            received: watch::Sender::new(0),
            durable: watch::Sender::new(0),
            total: watch::Sender::new(u64::MAX),
            stdin: Stdin::new(fresh, stdin_end),
            disk_failed: Mutex::default(),
            log: Mutex::default(),
            opening: Mutex::new(()),
        }
    }

    /// Its output, opened unless somebody has it open. Blocking.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open_log(&self, outputs: &dyn super::ports::Outputs) -> std::io::Result<Arc<dyn OutputLog>> {
        let _one_at_a_time = self.opening.lock().expect("no holder of this lock panics");
        if let Some(log) = self.log() {
            return Ok(log);
        }
        let log = outputs.open(&self.id)?;
        self.received.send_replace(log.received());
        *self.log.lock().expect("no holder of this lock panics") = Some(Arc::downgrade(&log));
        Ok(log)
    }

    /// Sets why its output cannot be kept; what it was before.
    pub fn set_disk_failed(&self, why: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.disk_failed.lock().expect("no holder of this lock panics"), why)
    }

    /// Why its output cannot be kept; empty while it can.
    pub fn disk_failed(&self) -> String {
        self.disk_failed.lock().expect("no holder of this lock panics").clone().unwrap_or_default()
    }

    /// Its output, if somebody has it open.
    pub fn log(&self) -> Option<Arc<dyn OutputLog>> {
        self.log.lock().expect("no holder of this lock panics").as_ref()?.upgrade()
    }
}
