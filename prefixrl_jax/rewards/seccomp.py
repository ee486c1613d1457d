"""The system calls that code in the sandbox may and may not make.

Two BPF programs (seccomp(2)). One applies to everything in the sandbox: no
mounts, namespaces, sockets, tracing, keys, modules, clocks, io_uring, and
nothing newer than the kernel this table was made for. The second applies to
model-written code and lists what is allowed: what Python's standard library
needs to compute, to have threads and to use files. So there is no new process,
no other program, no signal to anyone, no slowing of other processes, and no
change of a file's owner, rights, times or locks: the visible files are shared
with other sandboxes, and /dev/null is the machine's own. Nor can the kernel be
made to hold memory that no limit counts: what is allowed uses memory that is
counted, /tmp, or 64 file descriptors.

Numbers are those of the kernel's headers, asm/unistd_64.h and
asm-generic/unistd.h.
"""

import platform
import struct

# Name: number on x86_64, number on aarch64; None: it does not exist there.
_NEVER = {
  "ptrace": (101, 117),
  "process_vm_readv": (310, 270),
  "process_vm_writev": (311, 271),
  "process_madvise": (440, 440),
  "process_mrelease": (448, 448),
  "kcmp": (312, 272),
  "pidfd_getfd": (438, 438),
  "mount": (165, 40),
  "umount2": (166, 39),
  "pivot_root": (155, 41),
  "chroot": (161, 51),
  "move_mount": (429, 429),
  "open_tree": (428, 428),
  "fsopen": (430, 430),
  "fsconfig": (431, 431),
  "fsmount": (432, 432),
  "fspick": (433, 433),
  "mount_setattr": (442, 442),
  "swapon": (167, 224),
  "swapoff": (168, 225),
  "quotactl": (179, 60),
  "quotactl_fd": (443, 443),
  "name_to_handle_at": (303, 264),
  "open_by_handle_at": (304, 265),
  "fanotify_init": (300, 262),
  "mknod": (133, None),
  "mknodat": (259, 33),
  "unshare": (272, 97),
  "setns": (308, 268),
  "bpf": (321, 280),
  "perf_event_open": (298, 241),
  "userfaultfd": (323, 282),
  "io_uring_setup": (425, 425),
  "io_uring_enter": (426, 426),
  "io_uring_register": (427, 427),
  "keyctl": (250, 219),
  "add_key": (248, 217),
  "request_key": (249, 218),
  "init_module": (175, 105),
  "finit_module": (313, 273),
  "delete_module": (176, 106),
  "kexec_load": (246, 104),
  "kexec_file_load": (320, 294),
  "reboot": (169, 142),
  "acct": (163, 89),
  "syslog": (103, 116),
  "sethostname": (170, 161),
  "setdomainname": (171, 162),
  "settimeofday": (164, 170),
  "clock_settime": (227, 112),
  "clock_adjtime": (305, 266),
  "adjtimex": (159, 171),
  "personality": (135, 92),
  "lookup_dcookie": (212, 18),
  "iopl": (172, None),
  "ioperm": (173, None),
  "modify_ldt": (154, None),
  "uselib": (134, None),
  "nfsservctl": (180, 42),
  "vhangup": (153, 58),
  # Memory that RLIMIT_AS does not count.
  "shmget": (29, 194),
  "shmat": (30, 196),
  "semget": (64, 190),
  "msgget": (68, 186),
  "mq_open": (240, 180),
  "memfd_secret": (447, 447),
  "io_setup": (206, 0),
  "mbind": (237, 235),
  "migrate_pages": (256, 238),
  "move_pages": (279, 239),
  "set_mempolicy": (238, 237),
  "socket": (41, 198),
  "connect": (42, 203),
  "bind": (49, 200),
  "listen": (50, 201),
  # A socket in flight through another holds memory that nothing counts.
  "sendmsg": (46, 211),
  "recvmsg": (47, 212),
  "sendmmsg": (307, 269),
  "recvmmsg": (299, 243),
  "setsockopt": (54, 208),
  # These have effects outside.
  "sync": (162, 81),
  "syncfs": (306, 267),
  "inotify_init": (253, None),
  "inotify_init1": (294, 26),
}
# All that solutions may call, besides those whose arguments are checked below.
_SOLUTIONS_MAY = {
  # Memory.
  "brk": (12, 214),
  "mmap": (9, 222),
  "munmap": (11, 215),
  "mremap": (25, 216),
  "mprotect": (10, 226),
  "madvise": (28, 233),
  "mincore": (27, 232),
  "msync": (26, 227),
  # Threads, and waiting.
  "exit": (60, 93),
  "exit_group": (231, 94),
  "futex": (202, 98),
  "futex_waitv": (449, 449),
  "set_tid_address": (218, 96),
  "set_robust_list": (273, 99),
  "get_robust_list": (274, 100),
  "rseq": (334, 293),
  "restart_syscall": (219, 128),
  "sched_yield": (24, 124),
  "sched_getaffinity": (204, 123),
  "sched_getparam": (143, 121),
  "sched_getscheduler": (145, 120),
  "sched_get_priority_max": (146, 125),
  "sched_get_priority_min": (147, 126),
  "sched_rr_get_interval": (148, 127),
  "getpriority": (140, 141),
  "arch_prctl": (158, None),
  "wait4": (61, 260),
  "waitid": (247, 95),
  # Its own signals.
  "rt_sigaction": (13, 134),
  "rt_sigprocmask": (14, 135),
  "rt_sigreturn": (15, 139),
  "rt_sigpending": (127, 136),
  "rt_sigtimedwait": (128, 137),
  "rt_sigsuspend": (130, 133),
  "sigaltstack": (131, 132),
  "pause": (34, None),
  "alarm": (37, None),
  "getitimer": (36, 102),
  "setitimer": (38, 103),
  # Time.
  "time": (201, None),
  "gettimeofday": (96, 169),
  "clock_gettime": (228, 113),
  "clock_getres": (229, 114),
  "clock_nanosleep": (230, 115),
  "nanosleep": (35, 101),
  "times": (100, 153),
  # Its identity and location.
  "getpid": (39, 172),
  "getppid": (110, 173),
  "gettid": (186, 178),
  "getuid": (102, 174),
  "geteuid": (107, 175),
  "getgid": (104, 176),
  "getegid": (108, 177),
  "getresuid": (118, 148),
  "getresgid": (120, 150),
  "getgroups": (115, 158),
  "getpgid": (121, 155),
  "getpgrp": (111, None),
  "getsid": (124, 156),
  "capget": (125, 90),
  "uname": (63, 160),
  "sysinfo": (99, 179),
  "getcpu": (309, 168),
  "getrusage": (98, 165),
  "getrlimit": (97, 163),
  "setrlimit": (160, 164),
  "getrandom": (318, 278),
  "umask": (95, 166),
  # Files.
  "open": (2, None),
  "openat": (257, 56),
  "openat2": (437, 437),
  "creat": (85, None),
  "close": (3, 57),
  "read": (0, 63),
  "write": (1, 64),
  "pread64": (17, 67),
  "pwrite64": (18, 68),
  "readv": (19, 65),
  "writev": (20, 66),
  "preadv": (295, 69),
  "pwritev": (296, 70),
  "preadv2": (327, 286),
  "pwritev2": (328, 287),
  "lseek": (8, 62),
  "sendfile": (40, 71),
  "copy_file_range": (326, 285),
  "stat": (4, None),
  "fstat": (5, 80),
  "lstat": (6, None),
  "newfstatat": (262, 79),
  "statx": (332, 291),
  "statfs": (137, 43),
  "fstatfs": (138, 44),
  "access": (21, None),
  "faccessat": (269, 48),
  "faccessat2": (439, 439),
  "readlink": (89, None),
  "readlinkat": (267, 78),
  "getdents": (78, None),
  "getdents64": (217, 61),
  "getcwd": (79, 17),
  "chdir": (80, 49),
  "fchdir": (81, 50),
  "mkdir": (83, None),
  "mkdirat": (258, 34),
  "rmdir": (84, None),
  "unlink": (87, None),
  "unlinkat": (263, 35),
  "rename": (82, None),
  "renameat": (264, 38),
  "renameat2": (316, 276),
  "link": (86, None),
  "linkat": (265, 37),
  "symlink": (88, None),
  "symlinkat": (266, 36),
  "truncate": (76, 45),
  "ftruncate": (77, 46),
  "fallocate": (285, 47),
  "fadvise64": (221, 223),
  "fsync": (74, 82),
  "fdatasync": (75, 83),
  "getxattr": (191, 8),
  "lgetxattr": (192, 9),
  "fgetxattr": (193, 10),
  "listxattr": (194, 11),
  "llistxattr": (195, 12),
  "flistxattr": (196, 13),
  # File descriptors: 64 of them, each with little in it.
  "dup": (32, 23),
  "dup2": (33, None),
  "dup3": (292, 24),
  "pipe": (22, None),
  "pipe2": (293, 59),
  "poll": (7, None),
  "ppoll": (271, 73),
  "select": (23, None),
  "pselect6": (270, 72),
  "epoll_create": (213, None),
  "epoll_create1": (291, 20),
  "epoll_ctl": (233, 21),
  "epoll_wait": (232, None),
  "epoll_pwait": (281, 22),
  "epoll_pwait2": (441, 441),
  "eventfd": (284, None),
  "eventfd2": (290, 19),
  # asyncio's pair of sockets.
  "sendto": (44, 206),
  "recvfrom": (45, 207),
  "shutdown": (48, 210),
  "getsockname": (51, 204),
  "getpeername": (52, 205),
  "getsockopt": (55, 209),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_IOCTL, _FCNTL = (16, 29), (72, 25)
_SOCKETPAIR, _PRLIMIT = (53, 199), (302, 261)
_PRCTL, _CLOSE_RANGE = (157, 167), (436, 436)
_MMAP, _MREMAP = (9, 222), (25, 216)
_NEWEST = 450  # set_mempolicy_home_node, on both

_NAMESPACES = 0x7E020000  # clone's CLONE_NEW*
# CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD: what a thread shares. With file
# descriptors of its own, each could have 64 of them.
_THREAD = 0x00010F00
_UNSHARE = 2  # CLOSE_RANGE_UNSHARE would give it its own
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# TCGETS (is it a terminal?), TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ,
# F_GET_SEALS; no locks, leases, signals, no larger pipes.
_FILE_COMMANDS = (0, 1, 2, 3, 4, 1030, 1032, 1034)
_NAMES = (15, 16)  # PR_SET_NAME and PR_GET_NAME, of threads

# machine: (column of the tables, AUDIT_ARCH_*).
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _RETURN, _AND = 0x20, 0x06, 0x54
_EQUAL, _ABOVE, _AT_LEAST = 0x15, 0x25, 0x35
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38


def filter_program(
  *, for_solutions: bool, machine: str | None = None
) -> bytes | None:
  """Returns a BPF program, or None: there is no table for this machine.

  Args:
    for_solutions: whether it is the second program (see the module).
    machine: as platform.machine() names it; default: this one.
  """
  machine = machine or platform.machine()
  if machine not in _MACHINES:
    return None
  column, architecture = _MACHINES[machine]
  code = [
    (_LOAD, 0, 0, 4),  # seccomp_data.arch
    (_EQUAL, 1, 0, architecture),
    (_RETURN, 0, 0, _KILL),
    (_LOAD, 0, 0, 0),  # seccomp_data.nr
  ]
  if machine == "x86_64":  # x32 numbers would bypass the table
    code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]
  code += _refuse_if(_ABOVE, _NEWEST, _ENOSYS)
  # A filter cannot read clone3's arguments; libc falls back to clone.
  code += _refuse_if(_EQUAL, _CLONE3[column], _ENOSYS)
  # asyncio has a pair of AF_UNIX streams; datagrams could be sent to a path.
  unix = [*_only_if((1,)), (_LOAD, 0, 0, 16 + 8), (_AND, 0, 0, 15)]
  pair = (_SOCKETPAIR[column], 0, [*unix, *_only_if((1,))])
  if for_solutions:
    threads = [(_AND, 0, 0, _THREAD), *_only_if((_THREAD,))]
    code += _look_at(_CLONE[column], 0, threads)
    # Another process's limits, or signals to it in the kernel's name.
    code += _look_at(_PRLIMIT[column], 0, _only_if((0,)))
    code += _look_at(_FCNTL[column], 1, _only_if(_FILE_COMMANDS))
    code += _look_at(_IOCTL[column], 1, _only_if(_REQUESTS))
    code += _look_at(_PRCTL[column], 0, _only_if(_NAMES))
    shared = [(_AND, 0, 0, _UNSHARE), *_only_if((0,))]
    code += _look_at(_CLOSE_RANGE[column], 2, shared)
    code += _look_at(*pair)
    for numbers in _SOLUTIONS_MAY.values():
      if numbers[column] is not None:
        code += _allow_if(numbers[column])
    code.append(_refuse(_EPERM))
  else:
    for numbers in _NEVER.values():
      if numbers[column] is not None:
        code += _refuse_if(_EQUAL, numbers[column], _EPERM)
    namespaces = [(_AND, 0, 0, _NAMESPACES), *_only_if((0,))]
    code += _look_at(_CLONE[column], 0, namespaces)
    code += _look_at(_IOCTL[column], 1, _refuse_any(_TERMINAL_INPUT))
    code += _look_at(*pair)
    code.append((_RETURN, 0, 0, _ALLOW))
  return b"".join(struct.pack("=HBBI", *step) for step in code)


def mapping_calls() -> list[int] | None:
  """Returns mmap's and mremap's numbers; None: unknown for this machine."""
  if platform.machine() not in _MACHINES:
    return None
  column, _ = _MACHINES[platform.machine()]
  return [_MMAP[column], _MREMAP[column]]


def _refuse(errno):
  return (_RETURN, 0, 0, _ERRNO | errno)


def _refuse_if(test, value, errno):
  return [(test, 0, 1, value), _refuse(errno)]


def _allow_if(value):
  return [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]


def _refuse_any(values):
  return [step for v in values for step in _refuse_if(_EQUAL, v, _EPERM)]


def _only_if(values):
  """Refuses everything else."""
  ways = [(_EQUAL, len(values) - i, 0, v) for i, v in enumerate(values)]
  return [*ways, _refuse(_EPERM)]


def _look_at(number, argument, steps):
  """Runs steps on the low half of a call's argument, then allows the call."""
  body = [(_LOAD, 0, 0, 16 + 8 * argument), *steps, (_RETURN, 0, 0, _ALLOW)]
  return [(_EQUAL, 0, len(body), number), *body]
