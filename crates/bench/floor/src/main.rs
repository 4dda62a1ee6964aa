//! The floor under the agent's footprint: the runtime that the agent has, and a timer.
//!
//! `floor MILLISECONDS` wakes that often, and does nothing.

use std::time::Duration;

fn main() {
    let interval = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut ticks = tokio::time::interval(Duration::from_millis(interval));
        loop {
            ticks.tick().await;
        }
    });
}
