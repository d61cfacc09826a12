# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl doctor`: what keeps a guest's balloon from doing its work, and what to change.

    facts    what is known of a guest                      (pure)
    rules    facts in, findings out                        (pure)
    qemu     facts and places of a guest behind QMP
    domain   facts and places of a libvirt domain
    command  runs it, and shows what was found

An arrow of imports only goes up this list.
"""
