# SPDX-License-Identifier: GPL-2.0-only
"""The host's half of ballooning: a service that moves memory between guests.

    config    the settings file                         (text in, settings out)
    model     what is known of a guest and of the host   (pure: no clock, no files)
    policy    who gives and who gets                     (pure)
    host      MemAvailable and PSI
    link      QMP, asynchronous
    bare      guests behind QMP sockets
    domains   guests of libvirt
    service   the loop, systemd, the status socket
    arguments what the command line takes
    command   `balloonctl balance`, its check, status and live view

An arrow of imports only goes up this list.
"""
