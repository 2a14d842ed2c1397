# A menu, not a build system: every entry is one command.
.PHONY: menu build draw check fast asan fuzz bench clean
menu:
	@echo "make draw    build, draw one picture, base and DDiT side by side"
	@echo "make build   the program: build/release/ddit"
	@echo "make check   all tests: release, sanitizers, coverage"
	@echo "make fast    the release tests alone"
	@echo "make fuzz    ten minutes of fuzzing for each parser (clang)"
	@echo "make bench   seconds per step on this machine"
	@echo "make clean   removes build/"
build:
	cmake -S . -B build/release -G Ninja -DCMAKE_BUILD_TYPE=Release && cmake --build build/release
draw:
	./draw
check:
	./check
fast:
	./check fast
fuzz:
	sh tests/fuzz/fuzz.sh
bench: build
	build/release/ddit bench --shape flux-dev
clean:
	rm -rf build
