# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl export`: what the host knows of its guests' memory, in Prometheus' text format.

    sample    what is known of one guest          (pure)
    sockets   guests behind QMP sockets           (the balance's link and eyes)
    domains   guests of libvirt
    balance   what the balance tells
    look      all guests at once, in bounded time
    metrics   names and meanings                  (a look in, prometheus_client's families out)
    server    the HTTP endpoint
    arguments what the command line takes
    command   once, to a file, or as a server

An arrow of imports only goes up this list.
"""
