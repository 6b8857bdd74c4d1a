# fish completion for margay
function __margay_complete
    set -l found (margay complete -- (commandline -cp | string collect) 2>/dev/null)
    if test -n "$found"
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c margay -f -a '(__margay_complete)'
