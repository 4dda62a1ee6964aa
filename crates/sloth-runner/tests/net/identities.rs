//! Two that claim to be one.

use crate::{
    harness::cases,
    site::{MASTER, PORT, QUICK, Site, lasts},
    switch::Way,
    time::{now, secs, since},
};
use std::{fs, time::Duration};

cases![
    a_cloned_disk_is_refused_while_its_original_lives,
    a_second_host_of_the_same_name_is_refused_while_the_first_one_lives,
];

fn a_second_host_of_the_same_name_is_refused_while_the_first_one_lives() -> String {
    let site = Site::new();
    let first = site.agent(&site.host(1), "lady", &QUICK);
    let second = site.start(&site.host(2), "lady", &format!("{MASTER}:{PORT}"), &QUICK, None);
    let line = second.line("Cannot connect to master");
    for place in ["10.9.1.1", "10.9.1.2"] {
        assert!(line.contains(place), "both are named: {line}");
    }
    // It goes on trying, and disturbs nobody.
    lasts(Duration::from_secs(5));
    let tries = second.count("Cannot connect to master");
    first.was_never_lost();
    assert_eq!((site.get("lady")["address"].as_str(), site.get("lady")["epoch"].as_u64()), (Some("10.9.1.1"), Some(1)));
    site.serves("lady");
    // The first one falls silent: its name is free once that is a loss, 2 s at these heartbeats.
    first.host.port.both(Way::DEAD);
    let start = now();
    let taken = since(start, second.when("Agent registered with master"));
    assert!(taken <= Duration::from_secs(4), "the verdict, and max_delay: {taken:?}");
    site.until_status("lady", "Active");
    assert_eq!(site.get("lady")["address"], "10.9.1.2");
    // Then it is the other way round.
    first.host.port.both(Way::OPEN);
    first.line("Cannot connect to master");
    second.was_never_lost();
    format!("refused and named; has the name {} after the first one fell silent ({tries} lines in 5 s)", secs(taken))
}

fn a_cloned_disk_is_refused_while_its_original_lives() -> String {
    let site = Site::new();
    let first = site.agent(&site.host(1), "lady", &QUICK);
    let clone = site.host(2);
    let state = site.path(&format!("lady-at-{}", clone.address));
    fs::create_dir(&state).unwrap();
    for file in ["agent-id", "epoch"] {
        fs::copy(first.state.join(file), state.join(file)).unwrap();
    }
    let second = site.start(&clone, "lady", &format!("{MASTER}:{PORT}"), &QUICK, None);
    let line = second.line("Cannot connect to master");
    assert!(line.contains("copied state directory"), "{line}");
    for place in ["10.9.1.1", "10.9.1.2"] {
        assert!(line.contains(place), "both are named: {line}");
    }
    lasts(Duration::from_secs(5));
    first.was_never_lost();
    assert_eq!((site.get("lady")["address"].as_str(), site.get("lady")["epoch"].as_u64()), (Some("10.9.1.1"), Some(1)));
    site.serves("lady");
    // The original falls silent: asked for a sign of life, it gives none.
    first.host.port.both(Way::DEAD);
    let start = now();
    let taken = since(start, second.when("Agent registered with master"));
    assert!(taken <= Duration::from_secs(4), "the probe or the verdict, and max_delay: {taken:?}");
    first.host.port.both(Way::OPEN);
    first.line("Cannot connect to master");
    lasts(Duration::from_secs(2));
    second.was_never_lost();
    assert_eq!(site.get("lady")["address"], "10.9.1.2");
    format!("refused and named; taken for the agent {} after the original fell silent", secs(taken))
}
