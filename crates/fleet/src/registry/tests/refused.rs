//! Who was refused, and is not in.

use super::*;

const LATELY: Duration = Duration::from_secs(600);

fn out(bench: &Bench) -> Vec<&str> {
    bench.fleet.registry().shut_out(bench.now.monotonic, LATELY)
}

#[test]
fn who_was_refused_lately_is_named_once_until_it_comes_in() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    assert_eq!(out(&bench), [""; 0]);
    bench.advance(MS(1_000));
    // Another machine under that name, twice, and for two reasons; and one that only has to wait.
    for conn in [2, 3] {
        bench.register(conn, register(2, 1, "a"));
    }
    bench.fleet.refuse(bench.now, ConnId(4), register(2, 1, "a"), LossReason::Unauthorized, String::new());
    bench.fleet.sent_away(bench.now, &register(9, 1, "busy"), "busy");
    bench.advance(MS(1_000));
    let stranger = Register { id: AgentId::default(), ..register(0, 1, "c") };
    bench.fleet.turned_away(bench.now, stranger, Turned::Stranger, "no token");
    bench.settle();
    assert_eq!(out(&bench), ["c", "a"], "the latest first");

    // The first one leaves, the second one has the name; and who had proven nothing comes with a token.
    bench.advance(MS(1_000));
    bench.close(1);
    bench.register(5, register(2, 1, "a"));
    assert_eq!(out(&bench), ["c"]);
    bench.register(6, register(3, 1, "c"));
    assert_eq!(out(&bench), [""; 0]);

    // And is refused again, while a session of it lasts.
    bench.advance(MS(1_000));
    bench.fleet.refuse(bench.now, ConnId(7), register(3, 2, "c"), LossReason::Unauthorized, String::new());
    bench.settle();
    assert_eq!(out(&bench), ["c"]);
    bench.advance(LATELY);
    assert_eq!(out(&bench), ["c"]);
    bench.advance(MS(1));
    assert_eq!(out(&bench), [""; 0]);
}
