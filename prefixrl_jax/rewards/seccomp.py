"""The system calls that code in the sandbox may not make.

Two BPF programs (seccomp(2)). One holds for everything in the sandbox: no
mounts, namespaces, sockets, tracing, keys, modules, clocks, io_uring, and
nothing that came after the kernel this table was made for. The second is laid
over model-written code: no new process (threads are fine), no other program,
no signal to anyone, no other process slowed down, and no file's owner, rights
or times: the /dev/null that is seen in there is the machine's own.

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
  # These are felt outside.
  "sync": (162, 81),
  "syncfs": (306, 267),
  "inotify_init": (253, None),
  "inotify_init1": (294, 26),
}
_NEVER_BY_SOLUTIONS = {
  "fork": (57, None),
  "vfork": (58, None),
  "execve": (59, 221),
  "execveat": (322, 281),
  "kill": (62, 129),
  "tkill": (200, 130),
  "tgkill": (234, 131),
  "rt_sigqueueinfo": (129, 138),
  "rt_tgsigqueueinfo": (297, 240),
  "pidfd_open": (434, 434),
  "pidfd_send_signal": (424, 424),
  "memfd_create": (319, 279),
  "setsid": (112, 157),
  "setpgid": (109, 154),
  "setpriority": (141, 140),
  "ioprio_set": (251, 30),
  "sched_setparam": (142, 118),
  "sched_setscheduler": (144, 119),
  "sched_setaffinity": (203, 122),
  "sched_setattr": (314, 274),
  "chmod": (90, None),
  "fchmod": (91, 52),
  "fchmodat": (268, 53),
  "chown": (92, None),
  "lchown": (94, None),
  "fchown": (93, 55),
  "fchownat": (260, 54),
  "setxattr": (188, 5),
  "lsetxattr": (189, 6),
  "fsetxattr": (190, 7),
  "removexattr": (197, 14),
  "lremovexattr": (198, 15),
  "fremovexattr": (199, 16),
  "utime": (132, None),
  "utimes": (235, None),
  "futimesat": (261, None),
  "utimensat": (280, 88),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_IOCTL, _FCNTL = (16, 29), (72, 25)
_SOCKETPAIR, _PRLIMIT = (53, 199), (302, 261)
_NEWEST = 450  # set_mempolicy_home_node, on both

_NAMESPACES = 0x7E020000  # clone's CLONE_NEW*
_THREAD = 0x00010000  # CLONE_THREAD
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_SIGNAL_OWNER = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP
# F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE
_FILE_COMMANDS = (8, 10, 15, 1024)

# machine: column of the tables, AUDIT_ARCH_*.
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _RETURN, _AND = 0x20, 0x06, 0x54
_EQUAL, _ABOVE, _AT_LEAST = 0x15, 0x25, 0x35
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38


def filter_program(
  *, for_solutions: bool, machine: str | None = None
) -> bytes | None:
  """Returns a BPF program, or None: no table for this kind of machine.

  Args:
    for_solutions: the second program; else the first (see the module).
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
  if machine == "x86_64":  # the x32 numbers would pass by the table
    code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]
  code += _refuse_if(_ABOVE, _NEWEST, _ENOSYS)
  for numbers in (_NEVER_BY_SOLUTIONS if for_solutions else _NEVER).values():
    if numbers[column] is not None:
      code += _refuse_if(_EQUAL, numbers[column], _EPERM)
  # What clone3 wants cannot be seen from here; libc then falls back on clone.
  code += _refuse_if(_EQUAL, _CLONE3[column], _ENOSYS)
  if for_solutions:
    thread = [(_AND, 0, 0, _THREAD), *_refuse_if(_EQUAL, 0, _EPERM)]
    code += _look_at(_CLONE[column], 0, thread)
    # Another process's limits, or signals to it in the kernel's name.
    others = [(_EQUAL, 1, 0, 0), _refuse(_EPERM)]
    code += _look_at(_PRLIMIT[column], 0, others)
    code += _look_at(_FCNTL[column], 1, _refuse_any(_FILE_COMMANDS))
    code += _look_at(_IOCTL[column], 1, _refuse_any(_SIGNAL_OWNER))
  else:
    namespaces = [(_AND, 0, 0, _NAMESPACES), (_EQUAL, 1, 0, 0)]
    code += _look_at(_CLONE[column], 0, [*namespaces, _refuse(_EPERM)])
    code += _look_at(_IOCTL[column], 1, _refuse_any(_TERMINAL_INPUT))
    # asyncio has one of streams; datagrams could be sent to a socket's path.
    stream = [(_AND, 0, 0, 15), (_EQUAL, 1, 0, 1), _refuse(_EPERM)]
    code += _look_at(_SOCKETPAIR[column], 1, stream)
  code.append((_RETURN, 0, 0, _ALLOW))
  return b"".join(struct.pack("=HBBI", *step) for step in code)


def _refuse(errno):
  return (_RETURN, 0, 0, _ERRNO | errno)


def _refuse_if(test, value, errno):
  return [(test, 0, 1, value), _refuse(errno)]


def _refuse_any(values):
  return [step for v in values for step in _refuse_if(_EQUAL, v, _EPERM)]


def _look_at(number, argument, steps):
  """Runs steps on the low half of a call's argument, and then allows it."""
  body = [(_LOAD, 0, 0, 16 + 8 * argument), *steps, (_RETURN, 0, 0, _ALLOW)]
  return [(_EQUAL, 0, len(body), number), *body]
