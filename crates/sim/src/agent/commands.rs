//! The agent's commands: what the ledger wants done, the programs that run, and their output on its way up.

use super::{disk::timeout, ledger_params};
use crate::{
    Spec,
    net::Up,
    random::mix,
    world::{Event, World},
};
use link::{
    Outcome,
    ledger::{Ending, Exit, Finish, Input, Output, Record},
};
use std::time::Duration;

/// Output goes up in pieces of at most so many bytes.
const PIECE_MAX: u64 = 512;

/// What a specification makes a program do: all of it follows from the number.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    pub lasts: Duration,
    pub steps: u64,
    pub bytes_a_step: u64,
    pub code: i32,
    pub heeds_term: bool,
    pub starts: bool,
}

impl Program {
    pub fn of(spec: Spec) -> Self {
        let z = mix(spec.0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let lasts = match z % 4 {
            0 => Duration::ZERO,
            1 => Duration::from_millis(z >> 8 & 0x7ff),
            2 => Duration::from_millis(z >> 8 & 0x3fff),
            _ => Duration::from_millis(z >> 8 & 0xffff),
        };
        Self {
            lasts,
            steps: 1 + (z >> 24) % 6,
            bytes_a_step: if z >> 28 & 1 == 0 { 0 } else { (z >> 32) % 1_500 },
            code: (z >> 48 & 3) as i32,
            heeds_term: z >> 50 & 3 != 0,
            starts: z >> 52 & 15 != 0,
        }
    }
}

/// A running program.
#[derive(Clone, Debug)]
pub struct Task {
    pub program: Program,
    pub steps_done: u64,
    /// A signal of ours ends it.
    pub signalled: bool,
    pub ending: Ending,
    /// Counts its plans: an earlier one means nothing.
    pub due: Duration,
}

/// Output of a command on its way up.
#[derive(Clone, Debug, Default)]
pub struct Out {
    /// Below it everything was let go.
    pub base: u64,
    pub end: u64,
    pub ended: bool,
    /// Where the open call goes on; `None`: the master has not said yet, or there is no call.
    pub next: Option<u64>,
    pub call: bool,
}

impl World {
    pub fn run_command(&mut self, host: usize, id: String, spec: Spec) {
        let timeout = timeout(spec);
        self.tell_ledger(host, Input::Run { id, spec, timeout });
    }

    pub fn perform(&mut self, host: usize, output: Output<Spec>) {
        self.note(|| format!("host {host} ledger: {output:?}"));
        match output {
            Output::Persist { id, record } => self.write_record(host, id, record),
            Output::Start { id, spec } => self.start_program(host, id, spec),
            Output::Terminate { id } => self.signal(host, &id, false),
            Output::Kill { id } => self.signal(host, &id, true),
            Output::Accepted { id } => self.send_up(host, Up::Accepted { id }),
            Output::Finished { id, finish } => {
                self.deliver_again(host, &id, &finish);
                self.send_up(host, Up::Finished { id, finish });
            }
            Output::Refuse { id, reason } => {
                self.check.excuse(&id);
                let unix_ms = self.hosts[host].unix_ms(self.now);
                let outcome = Outcome::Refused(reason);
                let finish = Finish { outcome, total_bytes: 0, started_unix_ms: 0, finished_unix_ms: unix_ms };
                self.send_up(host, Up::Finished { id, finish });
            }
        }
    }

    fn write_record(&mut self, host: usize, id: String, record: Record<Spec>) {
        let this = &mut self.hosts[host];
        let (run, wait) = (this.run, this.write_time);
        let Some(process) = &mut this.process else { return };
        process.writes.push_back((id, record));
        if process.writes.len() == 1 {
            self.after(wait, Event::AgentDisk { host, run });
        }
    }

    /// The oldest write is done, or has failed.
    pub fn agent_disk(&mut self, host: usize, run: u64) {
        let now = self.now;
        let this = &mut self.hosts[host];
        if this.run != run {
            return;
        }
        let fails = this.writes_fail_until > now;
        let wait = this.write_time;
        let Some(process) = &mut this.process else { return };
        if this.frozen_until > now {
            let until = this.frozen_until;
            return self.at(until, Event::AgentDisk { host, run });
        }
        let Some((id, record)) = process.writes.pop_front() else { return };
        if !process.writes.is_empty() {
            self.after(wait, Event::AgentDisk { host, run });
        }
        let answered = record != Record::Acknowledged;
        if fails {
            self.check.excuse(&id);
        } else {
            self.hosts[host].disk.write(&id, record, Spec::of(&id));
        }
        if answered && fails {
            self.tell_ledger(host, Input::PersistFailed { id, reason: "disk full".to_owned() });
        } else if answered {
            self.tell_ledger(host, Input::Persisted { id });
        }
        self.drained(host);
    }

    fn start_program(&mut self, host: usize, id: String, spec: Spec) {
        if let Err(what) = self.check.started(host, &id) {
            self.fail(what);
        }
        let program = Program::of(spec);
        if !program.starts {
            self.check.excuse(&id);
            return self.tell_ledger(host, Input::StartFailed { id, reason: "no such file".to_owned() });
        }
        let due = self.now + program.lasts / program.steps as u32;
        let task = Task { program, steps_done: 0, signalled: false, ending: Ending::Code(program.code), due };
        let run = self.hosts[host].run;
        let Some(process) = &mut self.hosts[host].process else { return };
        process.tasks.insert(id.clone(), task);
        process.outs.insert(id.clone(), Out::default());
        self.open_call(host, &id);
        self.at(due, Event::Task { host, run, id: id.clone() });
        self.tell_ledger(host, Input::Started { id });
    }

    /// A program prints, or ends.
    pub fn step_task(&mut self, host: usize, run: u64, id: &str) {
        let now = self.now;
        let this = &mut self.hosts[host];
        let Some(process) = this.process.as_mut().filter(|_| this.run == run) else { return };
        let Some(task) = process.tasks.get_mut(id).filter(|task| task.due == now) else { return };
        if this.frozen_until > now {
            task.due = this.frozen_until;
            let due = task.due;
            return self.at(due, Event::Task { host, run, id: id.to_owned() });
        }
        let over = task.signalled || task.steps_done >= task.program.steps;
        if !over {
            task.steps_done += 1;
            task.due = now + task.program.lasts / task.program.steps as u32;
            let (due, bytes) = (task.due, task.program.bytes_a_step);
            process.outs.get_mut(id).expect("it has one while it runs").end += bytes;
            self.at(due, Event::Task { host, run, id: id.to_owned() });
            return self.send_output(host, id);
        }
        let (ending, signalled) = (task.ending, task.signalled);
        process.tasks.remove(id);
        let out = process.outs.get_mut(id).expect("it has one while it runs");
        out.ended = true;
        let total_bytes = out.end;
        self.check.exited(id, ending, total_bytes, signalled);
        let exit = if signalled { Exit::Killed(ending) } else { Exit::Own(ending) };
        self.tell_ledger(host, Input::Exited { id: id.to_owned(), exit, total_bytes });
        self.drained(host);
    }

    fn signal(&mut self, host: usize, id: &str, kill: bool) {
        let (now, run) = (self.now, self.hosts[host].run);
        let Some(process) = &mut self.hosts[host].process else { return };
        let Some(task) = process.tasks.get_mut(id) else { return };
        if kill || task.program.heeds_term {
            task.signalled = true;
            task.ending = Ending::Signal(if kill { 9 } else { 15 });
            task.due = now + Duration::from_millis(1);
            let due = task.due;
            self.at(due, Event::Task { host, run, id: id.to_owned() });
        }
    }

    // ------------------------------------------------------------------------------------------------------ output

    pub fn open_calls(&mut self, host: usize) {
        let Some(process) = &self.hosts[host].process else { return };
        for id in process.outs.keys().cloned().collect::<Vec<_>>() {
            self.open_call(host, &id);
        }
    }

    pub fn end_calls(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        for out in process.outs.values_mut() {
            (out.call, out.next) = (false, None);
        }
    }

    /// The master says where to go on. Also if it has everything already: it may have lost it since, and then it must
    /// hear that it is a gap now.
    fn open_call(&mut self, host: usize, id: &str) {
        let Some(process) = self.hosts[host].process.as_mut().filter(|process| process.session_up) else { return };
        let Some(out) = process.outs.get_mut(id).filter(|out| !out.call && (!out.ended || out.end > 0)) else {
            return;
        };
        out.call = true;
        self.send_up(host, Up::OutputOpen { id: id.to_owned() });
    }

    pub fn output_acked(&mut self, host: usize, id: &str, received: u64, durable: u64) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let Some(out) = process.outs.get_mut(id).filter(|out| out.call) else { return };
        out.next.get_or_insert(received.min(out.end));
        out.base = out.base.max(durable.min(out.end));
        if let Some(stored) = self.hosts[host].disk.commands.get_mut(id) {
            stored.output.0 = stored.output.0.max(durable);
        }
        self.send_output(host, id);
    }

    /// Sends what there is, from where the master wants it. What it wants and is no more here is a gap.
    fn send_output(&mut self, host: usize, id: &str) {
        loop {
            let Some(process) = &mut self.hosts[host].process else { return };
            let Some(out) = process.outs.get_mut(id) else { return };
            let Some(next) = out.next.filter(|next| *next < out.end) else { return };
            let (bytes, gap) =
                if next < out.base { (out.base - next, true) } else { ((out.end - next).min(PIECE_MAX), false) };
            out.next = Some(next + bytes);
            self.send_up(host, Up::Output { id: id.to_owned(), offset: next, bytes, gap });
        }
    }

    /// A master asks for a command that it has acknowledged: what it has lost of the output is a gap now.
    fn deliver_again(&mut self, host: usize, id: &str, finish: &Finish) {
        let Some(process) = &mut self.hosts[host].process else { return };
        if process.ledger.holds(id) {
            return;
        }
        let total = finish.total_bytes;
        // Open even if the master has all of it: its answer says so.
        let out = Out { base: total, end: total, ended: true, next: None, call: true };
        process.outs.insert(id.to_owned(), out);
        self.send_up(host, Up::OutputOpen { id: id.to_owned() });
    }

    pub fn forget_output(&mut self, host: usize, id: &str) {
        let Some(process) = &mut self.hosts[host].process else { return };
        if !process.ledger.holds(id) {
            process.outs.remove(id);
        }
    }
}

/// As many commands as a host may hold and still take another.
pub fn room() -> usize {
    ledger_params().held_max
}
