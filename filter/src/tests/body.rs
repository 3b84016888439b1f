//! Bodies: which are read, from where, and when they end.

use super::*;

#[test]
fn bodyless_compressed_and_foreign_requests_are_not_held() {
    let mut vm = Vm::new(&Process::default(), STREAMING);
    vm.table(1, 3);
    assert_eq!(vm.begin("/v1/chat/completions", true).1, Action::Continue);
    assert_ne!(vm.sent_to(), "");
    vm.host.headers.borrow_mut().insert("content-encoding".into(), "gzip".into());
    assert_eq!(vm.begin("/v1/chat/completions", false).1, Action::Continue);
    assert_eq!((vm.metric("cause=.=empty"), vm.metric("cause=.=compressed")), (1, 1));
    assert_eq!(vm.begin("/upload", false).1, Action::Continue);
}

#[test]
fn a_long_body_goes_on_from_the_turn_before() {
    let mut vm = Vm::new(&Process::default(), STREAMING);
    vm.table(1, 3);
    const BLOCK: u64 = 16 << 10;
    for (turn, resumed) in [(1, 0), (2, 6 * BLOCK), (3, (6 + 12) * BLOCK)] {
        let (mut http, to) = vm.chat(&"w".repeat(500 * turn));
        assert_ne!(to, "");
        assert_eq!(vm.metric("bytes_resumed"), resumed, "turn {turn}");
        vm.answered(&mut *http, &to, "200");
        vm.done(&mut *http, USAGE);
    }
}

#[test]
fn trailers_end_a_body() {
    let mut vm = Vm::new(&Process::default(), STREAMING);
    vm.table(1, 3);
    let (mut http, _) = vm.begin("/v1/chat/completions", false);
    *vm.host.body.borrow_mut() = b"{\"messages\": [".to_vec();
    assert_eq!(http.on_http_request_body(14, false), Action::Pause);
    assert_eq!(http.on_http_request_trailers(1), Action::Continue);
    assert_ne!(vm.sent_to(), "");
    assert_eq!(vm.metric("cause=.=not_json"), 1);
}
