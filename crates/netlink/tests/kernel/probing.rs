//! What the kernel takes is found out without a trace.

use std::os::fd::AsRawFd;

use netlink::Nftables;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use ruleset::{Kernel, Transaction};

use crate::namespace::{in_namespace, nft};
use crate::rulesets::everything;

/// This kernel takes what our rulesets consist of, else the other tests here could not pass. It is found so where our table is and where
/// it is not; nobody sees it; and the socket commits afterwards as before.
#[test]
fn all_of_it_is_supported_and_nobody_sees_the_tries() {
    in_namespace(|| {
        let mut kernel = Nftables::open().expect("a netlink socket");
        let listener =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter).expect("a socket");
        bind(listener.as_raw_fd(), &NetlinkAddr::new(0, 1 << (libc::NFNLGRP_NFTABLES - 1))).expect("bound");
        let mut buffer = [0; 64 * 1024];
        // Also of more than the socket holds.
        let mut heard = || recv(listener.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) != Err(Errno::EAGAIN);

        assert_eq!(kernel.unsupported().expect("an answer"), []);
        assert!(!heard(), "a listener heard of it");
        assert_eq!(nft(&["list", "ruleset"]), "");

        kernel.commit(&Transaction::replace(&everything())).expect("a legal transaction");
        assert!(heard(), "the listener is one");
        while heard() {}
        let before = nft(&["list", "ruleset"]);
        assert_eq!(kernel.unsupported().expect("an answer"), []);
        assert!(!heard(), "a listener heard of it");
        assert_eq!(nft(&["list", "ruleset"]), before);
        assert_eq!(kernel.load().expect("a listing"), Some(everything()));
        kernel.commit(&Transaction::replace(&everything())).expect("a legal transaction");
    });
}

#[test]
fn without_the_right_to_it_there_is_no_answer() {
    in_namespace(|| {
        // SAFETY: the raw system call changes this thread only, which ends with the test; glibc's wrapper would change them all.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(result, 0, "the tests run as root");
        let error = Nftables::open().expect("a netlink socket").unsupported().expect_err("nobody may ask");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}

/// Makes the kernel answer this thread, which ends with the test, as one without nfnetlink does.
fn hide_nfnetlink() {
    let instruction = |code: u32, k: u32, jf: u8| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    // seccomp_data: the call's number is at 0, the lower halves of its arguments at 16, 24 and 32.
    let mut filter = [
        instruction(load, 0, 0),
        instruction(equal, libc::SYS_socket as u32, 5),
        instruction(load, 16, 0),
        instruction(equal, libc::AF_NETLINK as u32, 3),
        instruction(load, 32, 0),
        instruction(equal, libc::NETLINK_NETFILTER as u32, 1),
        instruction(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT as u32, 0),
        instruction(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its instructions live until the call returns; without TSYNC it concerns this thread alone.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0, "{}", Errno::last());
}

#[test]
fn a_kernel_without_nfnetlink_lacks_it_rather_than_being_no_kernel() {
    in_namespace(|| {
        assert_eq!(netlink::unsupported().expect("an answer"), []);
        hide_nfnetlink();
        assert!(matches!(Nftables::open(), Err(netlink::Error::Open(error)) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT)));
        let lacking = netlink::unsupported().expect("an answer");
        assert_eq!(lacking.len(), 1, "{lacking:?}");
        assert!(lacking[0].provided_by.contains("nfnetlink") && lacking[0].error.contains("Protocol not supported"), "{lacking:?}");
    });
}
