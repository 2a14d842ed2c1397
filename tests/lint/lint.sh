#!/bin/sh
# Rules of the tree that a compiler does not check. Prints every breach and fails.
set -eu
cd "$(dirname "$0")/../.."
status=0
breach() { echo "lint: $*"; status=1; }

# --- rank of rooms: what each may include (src/CMakeLists.txt says the same to the compiler)
allowed() {
    case $1 in
        base) echo "base" ;;
        tensor) echo "base tensor" ;;
        layout) echo "base layout" ;;
        format) echo "base tensor format" ;;
        tokenizer) echo "base tokenizer" ;;
        op) echo "base tensor op" ;;
        backend/ref) echo "base tensor op backend/ref" ;;
        backend/cpu*) echo "base tensor op backend/ref backend/cpu backend/cpu/kernels backend/cpu/kernels_avx512bf16" ;;
        backend) echo "base tensor op backend/ref backend/cpu backend" ;;
        bind) echo "base tensor format op bind" ;;
        media) echo "base media" ;;
        schedule) echo "base layout schedule" ;;
        text) echo "base tensor format op bind tokenizer text" ;;
        dit) echo "base tensor layout format op bind dit" ;;
        vae) echo "base tensor format op bind vae" ;;
        comm) echo "base comm" ;;
        train) echo "base tensor layout format op bind dit comm train" ;;
        sample) echo "base tensor layout format op bind dit schedule sample" ;;
        pipeline) echo "base tensor layout format op dit schedule sample text tokenizer bind vae media backend comm train pipeline" ;;
        *) echo "" ;;
    esac
}
for file in $(git ls-files 'src/*.c' 'src/*.h'); do
    room=$(dirname "${file#src/}")
    [ "$room" = . ] && continue
    rooms=$(allowed "$room")
    [ -n "$rooms" ] || breach "$file: the room $room is not in the rank list of tests/lint/lint.sh"
    for included in $(sed -n 's/^#include "\(.*\)"/\1/p' "$file"); do
        target=$(dirname "$included")
        [ "$target" = ddit ] && continue
        case " $rooms " in *" $target "*) ;; *) breach "$file includes $included, which is not below the room $room" ;; esac
    done
done

# --- programs and examples see the public headers only
for file in $(git ls-files 'programs/*.[ch]' 'examples/*.c'); do
    if grep -nE '#include "(base|tensor|op|format|dit|pipeline|media)/' "$file"; then breach "$file reaches into the library"; fi
done

# --- the library neither prints nor exits, and calls nothing unbounded
for file in $(git ls-files 'src/*.c'); do
    if grep -nE '\b(printf|puts|putchar|perror|exit|_exit|abort|strcpy|strcat|sprintf|gets|strtok|alloca)\(' "$file" | grep -vE '^[0-9]+: *(\*|/\*|//)'; then
        breach "$file calls a banned function"
    fi
done

# --- size and white space
tab=$(printf '\t')
for file in $(git ls-files '*.c' '*.h' '*.py' '*.sh' '*.md' '*.cmake' 'CMakeLists.txt' | grep -v '^models/'); do
    lines=$(wc -l <"$file")
    case $file in *.c|*.h) [ "$lines" -le 1000 ] || breach "$file has $lines lines, at most 1000" ;; esac
    if grep -n '[[:blank:]]$' "$file"; then breach "$file has trailing white space"; fi
    case $file in *.c|*.h) if grep -n "$tab" "$file"; then breach "$file has tabs"; fi ;; esac
done

# --- no writable statics in the library
if git ls-files 'src/*.c' | xargs grep -nE '^static [a-z_0-9 ]+ \**[a-z_]+(\[[^]]*\])* *(=|;)' | grep -vE 'static (inline )?const|\) *[;{]|const ' ; then
    breach "a writable static (see above)"
fi
[ $status = 0 ] && echo "lint: clean"
exit $status
