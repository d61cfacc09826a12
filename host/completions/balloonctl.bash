# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Bash completion for balloonctl.

_balloonctl_guests() {
	local domains=
	if command -v virsh >/dev/null; then
		domains=$(timeout 2 virsh --readonly list --name 2>/dev/null)
	fi
	compopt -o filenames 2>/dev/null
	mapfile -t COMPREPLY < <(compgen -W "$domains" -- "$1"; compgen -f -- "$1")
}

_balloonctl() {
	local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]} options='--guest --connect --json --help'
	COMPREPLY=()

	if ((COMP_CWORD == 1)); then
		mapfile -t COMPREPLY < <(compgen -W 'status doctor set stats watch export balance --help --version' -- "$current")
		return
	fi
	case $command in
	status | doctor) options+=' --all --monitor' ;;
	set) options+=' --timeout --no-wait' ;;
	stats) options+=' --all --timeout' ;;
	watch) options+=' --all --set --interval --count' ;;
	export) options='--guest --connect --all --balance --socket --timeout --textfile --listen --poll --help' ;;
	balance) options='--config --check --socket --proc --json --count --help' ;;
	esac
	case $previous in
	--guest | -g) _balloonctl_guests "$current" && return ;;
	--connect | -c)
		mapfile -t COMPREPLY < <(compgen -W 'qemu:///system qemu:///session' -- "$current")
		return
		;;
	--config | --socket | --proc | --textfile)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$current")
		return
		;;
	--listen)
		mapfile -t COMPREPLY < <(compgen -W '127.0.0.1:9911 [::1]:9911 :9911' -- "$current")
		return
		;;
	--set) set -- size ;;
	--timeout | --interval | --count | --poll) return ;;
	*) set -- ;;
	esac
	if [[ $command == set && $COMP_CWORD -eq 2 && $current != -* ]] || [[ ${1-} == size ]]; then
		mapfile -t COMPREPLY < <(compgen -W '25% 50% 75% 100% 512M 1G 2G 4G' -- "$current")
	elif [[ $current == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
	elif [[ $command == balance ]]; then
		mapfile -t COMPREPLY < <(compgen -W 'run status watch' -- "$current")
	else
		_balloonctl_guests "$current"
	fi
}

complete -F _balloonctl balloonctl
