"""What runs inside the sandbox. It imports only the standard library.

The host starts `running.main`, which takes one job and is one of three:

  programs  runs the code as a program, or calls a function of it, once per
            input, each time in a new process; what was printed or returned
            goes out.
  serve     loads the code once; its functions are called with plain data that
            comes in, and plain data goes out.
  check     runs trusted tests of a solution that lives in another sandbox, in
            a `serve` job: each call of it goes out, its result comes in.
"""
